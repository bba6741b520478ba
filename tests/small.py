"""Small images, streams and blocks that the tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn import reference
from convexcnn.data import ImageScaler
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform
from convexcnn.programs.cones import cone_responses
from convexcnn.programs.program import Program

GEOMETRIES = {
    "one cell": PatchGeometry((3, 6, 5), 3),
    "stride": PatchGeometry((3, 8, 8), 4, stride=2),
    "even cells": PatchGeometry((1, 7, 7), 4, cells=2),
    "overlapping cells": PatchGeometry((2, 7, 7), 3, cells=2),
    "ragged cells": PatchGeometry((1, 9, 6), 2, stride=2, padding=1, cells=3),
    "one patch": PatchGeometry((2, 4, 4), 4),
    "single pixels": PatchGeometry((3, 3, 4), 1, cells=3),
}
"""Cases of patches and pooling cells, by what is special about them."""

TRANSFORMS = ("raw", "raw with constant", "whitened")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Standard normal images (n, channels, height, width), float64."""
    return torch.randn(n, *shape, generator=generator(seed), dtype=torch.float64)


def make_transform(kind: str, geometry: PatchGeometry) -> PatchTransform:
    """A float64 transform of one of the ``TRANSFORMS``."""
    dim = geometry.patch_dim
    if kind == "raw":
        return identity_transform(dim).double()
    if kind == "raw with constant":
        return identity_transform(dim, constant=0.7).double()
    images = random_images(20, geometry.image_shape, seed=7) * 2 + 0.5
    return fit_whitening(images, geometry, max(1, dim // 2), constant=1.3)


def make_features(
    geometry: PatchGeometry, kind: str = "raw", n_gates: int = 4, seed: int = 1
) -> GatedFeatures:
    """Phi of random gates, in float64."""
    transform = make_transform(kind, geometry)
    gates = torch.randn(n_gates, transform.dim, generator=generator(seed), dtype=torch.float64)
    return GatedFeatures(geometry, transform, gates)


def single_features(geometry: PatchGeometry, n_gates: int = 4, seed: int = 3) -> GatedFeatures:
    """Phi of random gates on whitened patches, in float32 as streams are."""
    transform = make_transform("whitened", geometry)
    mean, projection = transform.mean.float(), transform.projection.float()
    gates = torch.randn(n_gates, transform.dim, generator=generator(seed))
    return GatedFeatures(geometry, PatchTransform(mean, projection, transform.constant), gates)


def reference_patches(
    images: Tensor, geometry: PatchGeometry, transform: PatchTransform
) -> NDArray[np.float64]:
    """Transformed patches (n, rows, columns, d), by loops."""
    raw = reference.patches(images.numpy(), geometry.filter_size, geometry.stride, geometry.padding)
    return reference.coordinates(
        raw, transform.mean.numpy(), transform.projection.numpy(), transform.constant
    )


def reference_phi(images: Tensor, features: GatedFeatures) -> NDArray[np.float64]:
    """Phi (n, features), by loops."""
    x = reference_patches(images, features.geometry, features.transform)
    phi = reference.gated_features(x, features.gates.numpy(), features.geometry.cells)
    return phi.reshape(len(phi), -1)


def relative_violation(program: Program, weights: Tensor) -> float:
    """The worst violation of a cone, relative to the largest response of any patch."""
    responses = cone_responses(program, weights)
    scale = float(responses.abs().max())
    return max(0.0, -float(responses.min())) / scale if scale else 0.0


def one_hot(labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    return np.eye(n_classes)[labels]


def stripes(
    n: int = 60, n_classes: int = 3, size: int = 8, channels: int = 1, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy pictures of horizontal, vertical and diagonal stripes at random phases.

    Returns:
        images (n, channels, size, size) uint8 and their labels (n,).
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    row, column = np.mgrid[:size, :size]
    phase = rng.integers(0, 4, n)[:, None, None]
    position = np.stack([row, column, row + column])[labels] + phase
    lines = np.where(position % 4 < 2, 190, 60)[:, None]
    noisy = lines + rng.normal(0, 30, (n, channels, size, size))
    return noisy.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def stripes_file(path: Path, n: int, test: int = 0, seed: int = 0) -> Path:
    """Write an .npz of n ``stripes`` and, of the next seed, test images; return its path."""
    images, labels = stripes(n, seed=seed)
    rest = dict(zip(("test_images", "test_labels"), stripes(test, seed=seed + 1), strict=True))
    np.savez(path, images=images, labels=labels, **(rest if test else {}))
    return path


def stripe_stream(
    n: int = 40, n_classes: int = 3, seed: int = 0, mirror: bool = False, **kwargs: int
) -> ImageStream:
    images, labels = stripes(n, n_classes, seed=seed, **kwargs)
    scaler = ImageScaler.fit(images, centre=False)
    return ImageStream(images, labels, n_classes, scaler, mirror=mirror)
