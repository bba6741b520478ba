"""Short measurements of what this machine does per second, in the shapes that a training has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convexcnn.certificates.certificate import GatedBlock, gated_features
from convexcnn.costs import counts
from convexcnn.costs.work import FeatureShape
from convexcnn.data.decode import ImageFile, read_images
from convexcnn.models.stack_settings import Block
from convexcnn.models.time_plan import BlockCost
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.gates import gaussian_gates
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.losses import CrossEntropyLoss
from convexcnn.programs.relu_cnn import ReluProgram
from convexcnn.timing import rate

THIN_BYTES = 128 * 2**20
"""Of the matrix in thin products, and of copies: more than caches hold."""

MEASURED_IMAGES = 64
PROBED_FILES = 32
WORK_PER_RUN = 2e9
"""Operations of one run of a probe on images, about."""


def dense_rate(inner: int, side: int, *, device: str, dtype: torch.dtype) -> float:
    """Operations per second of C += A' B with A and B (inner, side)."""
    left = torch.randn(inner, side, device=device, dtype=dtype)
    right = torch.randn(inner, side, device=device, dtype=dtype)
    out = torch.zeros(side, side, device=device, dtype=dtype)
    return rate(lambda: out.addmm_(left.T, right), counts.product(side, inner, side), device)


def thin_rate(columns: int, size: int, *, device: str, dtype: torch.dtype) -> float:
    """Operations per second of Phi V and of L' Phi, for Phi (rows, size) too large for caches."""
    width = torch.empty(0, dtype=dtype).element_size()
    rows = max(64, THIN_BYTES // (width * size))
    phi = torch.zeros(rows, size, device=device, dtype=dtype)
    weights = torch.zeros(size, columns, device=device, dtype=dtype)
    slopes = torch.zeros(rows, columns, device=device, dtype=dtype)

    def run() -> None:
        torch.mm(phi, weights)
        torch.mm(slopes.T, phi)

    return rate(run, 2 * counts.product(rows, size, columns), device)


def memory_rate(device: str) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(THIN_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return rate(lambda: target.copy_(source), 2.0 * THIN_BYTES, device)


def _transform(shape: FeatureShape, device: str) -> PatchTransform:
    raw = shape.geometry.patch_dim
    projection = torch.randn(raw, shape.rank, generator=_generator()) / raw**0.5
    return PatchTransform(torch.zeros(raw), projection, float(shape.dim > shape.rank)).to(device)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _images(shape: FeatureShape, per_image: float, device: str) -> Tensor:
    count = int(min(4096, max(MEASURED_IMAGES, WORK_PER_RUN / per_image)))
    size = 4 * int(np.prod(shape.geometry.image_shape))
    count = max(4, min(count, THIN_BYTES // size))
    drawn = torch.randn(count, *shape.geometry.image_shape, generator=_generator())
    return drawn.to(device)


def features_rate(shape: FeatureShape, device: str, dtype: torch.dtype) -> float:
    """Operations per second of the operator Phi."""
    transform = _transform(shape, device)
    gates = gaussian_gates(shape.gates, shape.geometry, transform, _generator())
    features = GatedFeatures(shape.geometry, transform, gates)
    per_image = counts.features(shape)
    images = _images(shape, per_image, device).to(dtype)
    images = images[: max(4, THIN_BYTES // (8 * shape.features))]
    if dtype == torch.float64:
        features = features.double()
    out = images.new_empty(len(images), shape.features)
    return rate(lambda: features(images, out), len(images) * per_image, device)


def plain_features_rate(shape: FeatureShape) -> float:
    """Operations per second of the certificate's convolutions in float64, on the processor."""
    transform = _transform(shape, "cpu")
    gates = gaussian_gates(shape.gates, shape.geometry, transform, _generator())
    features = GatedFeatures(shape.geometry, transform, gates)
    block = GatedBlock.of(features, torch.zeros(1, shape.features), torch.zeros(1), 1.0).double()
    images = _images(shape, counts.plain_features(shape), "cpu")[:MEASURED_IMAGES].double()
    flops = len(images) * counts.plain_features(shape)
    return rate(lambda: gated_features(block, images), flops, "cpu")


def relu_descent_rate(shape: FeatureShape, device: str) -> float:
    """Operations per second of the gradient of the network that lends gates."""
    transform, classes = _transform(shape, device), 10
    program = ReluProgram(
        shape.geometry, transform, shape.gates, classes, CrossEntropyLoss(), generator=_generator()
    )
    program.zero_grad()
    per_image = counts.relu_descent(shape, classes)
    images = _images(shape, per_image, device)
    targets = torch.eye(classes, device=device)[torch.arange(len(images)) % classes]

    def run() -> None:
        for start in range(0, len(images), program.block_size):
            part = slice(start, start + program.block_size)
            program.add_gradient(images[part], targets[part], 1.0)

    return rate(run, len(images) * per_image, device)


def decode_rate(files: Sequence[ImageFile], image_size: tuple[int, int]) -> float:
    """Image files per second; of JPEG files of that size made on the spot where none are given."""
    with tempfile.TemporaryDirectory() as folder:
        found = [*files[:PROBED_FILES]] or _pictures(Path(folder), image_size)
        return rate(
            lambda: read_images(found, channels=3, image_size=image_size, skip_bad=True),
            len(found),
            "cpu",
        )


def _pictures(folder: Path, image_size: tuple[int, int]) -> list[Path]:
    """JPEG files of smooth noise, which compresses about as photographs do."""
    from PIL import Image

    height, width = image_size
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height))
    paths = [folder / f"{number}.jpg" for number in range(PROBED_FILES)]
    for path in paths:
        picture.save(path, quality=90)
    return paths


def measure(kind: str, shape: object, device: str) -> float:
    """The rate of a kind of work at a shape, see ``hardware.KINDS``."""
    with torch.no_grad(), fast_float32():
        return MEASURES[kind](shape, device)


def block_cost(block: Block, geometry: PatchGeometry, device: str) -> BlockCost:
    """What a budget of minutes is shared by, measured as ``fit`` does it."""
    with torch.no_grad(), fast_float32():
        return BlockCost.of(block, geometry, device, last=False)


def _dense(dtype: torch.dtype) -> Callable[..., float]:
    return lambda shape, device: dense_rate(*shape, device=device, dtype=dtype)


def _thin(dtype: torch.dtype) -> Callable[..., float]:
    return lambda shape, device: thin_rate(*shape, device=device, dtype=dtype)


def _features(dtype: torch.dtype) -> Callable[..., float]:
    return lambda shape, device: features_rate(shape, device, dtype)


MEASURES: dict[str, Callable[..., float]] = {
    "products": _dense(torch.float32),
    "products in float64": _dense(torch.float64),
    "thin products": _thin(torch.float32),
    "thin products in float64": _thin(torch.float64),
    "features": _features(torch.float32),
    "features in float64": _features(torch.float64),
    "certificate features": lambda shape, device: plain_features_rate(shape),
    "gate descent": relu_descent_rate,
    "memory": lambda shape, device: memory_rate(device),
    "host memory": lambda shape, device: memory_rate("cpu"),
    "decoding": lambda shape, device: decode_rate(*shape),
}
"""Rates by kind: operations, bytes or files per second."""
