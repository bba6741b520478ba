"""The formulas of costs.counts equal what torch counts while the real code runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convexcnn.certificates.certificate import GatedBlock, gated_features
from convexcnn.costs import counts
from convexcnn.costs.work import FeatureShape
from convexcnn.data.preprocess import ImageScaler
from convexcnn.distributed import ALONE
from convexcnn.models import Block
from convexcnn.models.lookahead_network import network_of
from convexcnn.models.neuron_network import NeuronNetwork
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.responses import NeuronFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.losses import CrossEntropyLoss
from convexcnn.programs.relu_cnn import ReluProgram
from convexcnn.solvers import kernel as kernel_module
from convexcnn.solvers import lbfgs
from convexcnn.solvers.linear_algebra import cholesky
from convexcnn.solvers.ridge import statistics

CLASSES, IMAGES = 3, 10
EVEN = PatchGeometry((3, 9, 9), 3, 2, 1, 1)
RAGGED = PatchGeometry((2, 8, 10), 3, 1, 0, 4)
GEOMETRIES = [EVEN, RAGGED, PatchGeometry((1, 6, 6), 2, 2, 0, 3)]


def _in_place(out: list[int], left: list[int], right: list[int], *_: object, **__: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def counted(work: Callable[[], object]) -> int:
    """Operations by torch's counter, which does not know additions in place."""
    in_place = {torch.ops.aten.addmm_: _in_place}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        work()
    return counter.get_total_flops()


def drawn(
    geometry: PatchGeometry, rank: int = 4, gates: int = 5
) -> tuple[FeatureShape, GatedFeatures]:
    raw = geometry.patch_dim
    transform = PatchTransform(torch.zeros(raw), torch.randn(raw, rank), 1.0)
    features = GatedFeatures(geometry, transform, torch.randn(gates, rank + 1))
    return FeatureShape(geometry, rank, rank + 1, gates), features


def means(shape: FeatureShape, calls: int = 1) -> float:
    """Projections of the mean patch, one for every block of images: nothing beside the images."""
    return calls * counts.product(1, shape.geometry.patch_dim, shape.rank)


def images(geometry: PatchGeometry) -> torch.Tensor:
    return torch.randn(IMAGES, *geometry.image_shape)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_features(geometry: PatchGeometry) -> None:
    shape, features = drawn(geometry)
    found = counted(lambda: features(images(geometry)))
    assert found == IMAGES * counts.features(shape) + means(shape)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_features_of_the_certificate(geometry: PatchGeometry) -> None:
    shape, features = drawn(geometry)
    weights = torch.zeros(CLASSES, features.n_features)
    block = GatedBlock.of(features, weights, torch.zeros(CLASSES), 1.0)
    found = counted(lambda: gated_features(block, images(geometry).double()))
    assert found == IMAGES * counts.plain_features(shape)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_step_of_the_network_that_lends_gates(geometry: PatchGeometry) -> None:
    shape, features = drawn(geometry)
    program = ReluProgram(geometry, features.transform, 5, CLASSES, CrossEntropyLoss())
    program.zero_grad()
    targets = torch.eye(CLASSES)[torch.arange(IMAGES) % CLASSES]
    found = counted(lambda: program.add_gradient(images(geometry), targets, 1.0))
    assert found == IMAGES * counts.relu_descent(shape, CLASSES) + means(shape)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_responses(geometry: PatchGeometry) -> None:
    channels, side = geometry.image_shape[0], geometry.filter_size
    features = NeuronFeatures(geometry, torch.randn(6, channels, side, side), torch.zeros(6))
    found = counted(lambda: features(images(geometry)))
    assert found == IMAGES * counts.neuron_responses(geometry, 6)


@pytest.mark.parametrize("neurons", [4, 40])
def test_a_step_of_a_block(neurons: int) -> None:
    raw = EVEN.patch_dim
    transform = PatchTransform(torch.zeros(raw), torch.eye(raw), 1.0)
    generator = torch.Generator().manual_seed(0)
    network = NeuronNetwork(EVEN, transform, neurons, CLASSES, generator)
    batch = images(EVEN).contiguous(memory_format=torch.channels_last)
    targets = torch.eye(CLASSES)[torch.arange(IMAGES) % CLASSES]
    found = counted(lambda: network.train_once([(batch, targets)], len(batch)))
    expected = IMAGES * counts.neuron_descent(EVEN, neurons, CLASSES)
    assert found == pytest.approx(expected + counts.neuron_step(EVEN, neurons), rel=0.02)


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("downsample", ["none", "average"])
def test_a_step_of_a_block_that_looks_ahead(downsample: str, lookahead: int) -> None:
    raw = EVEN.patch_dim
    block = Block(n_gates=8, gates="lookahead", lookahead=lookahead, downsample=downsample)
    transform = PatchTransform(torch.zeros(raw), torch.eye(raw), 1.0)
    generator = torch.Generator().manual_seed(0)
    network = network_of(block, EVEN, transform, CLASSES, generator, last=False)
    batch = images(EVEN).contiguous(memory_format=torch.channels_last)
    targets = torch.eye(CLASSES)[torch.arange(IMAGES) % CLASSES]
    found = counted(lambda: network.train_once([(batch, targets)], len(batch)))
    expected = IMAGES * counts.block_descent(block, EVEN, CLASSES) + counts.block_step(block, EVEN)
    assert found == pytest.approx(expected, rel=0.03)


def stream_of(geometry: PatchGeometry, rows: int) -> ImageStream:
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 255, (rows, *geometry.image_shape), np.uint8)
    scaler = ImageScaler.fit(drawn)
    return ImageStream(drawn, np.arange(rows, dtype=np.int64) % CLASSES, CLASSES, scaler)


@pytest.mark.parametrize("band", [7, 16, 1000])
def test_sums_of_a_gram_matrix(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BAND", band)
    shape, features = drawn(EVEN)
    stream, m = stream_of(EVEN, 30), features.n_features
    sums = statistics.GramStatistics(features, CLASSES, torch.zeros(m), chunk=8)
    expected = counts.gram(30, m, band) + 30 * counts.features(shape) + means(shape, 4)
    assert counted(lambda: sums.add(stream)) == expected + counts.product(m, 30, CLASSES)


@pytest.mark.parametrize("chunk", [4, 10, 64])
def test_a_kernel(chunk: int) -> None:
    shape, features = drawn(EVEN)
    stream, m = stream_of(EVEN, 30), features.n_features
    solver = kernel_module.Kernel(chunk=chunk)
    found = counted(lambda: solver._kernel(features, [stream], torch.zeros(m)))
    inner = counts.product(counts.kernel_columns(30, chunk), m, 1)
    built = counts.kernel_rebuilt(30, chunk) * counts.features(shape)
    half = chunk // 2
    stops = [min(30, start + chunk) for start in range(0, 30, chunk)]
    blocks = [-(-min(30, half * (-(-stop // half) + 1)) // half) for stop in stops]
    assert found == inner + built + means(shape, len(stops) + sum(blocks))


@pytest.mark.parametrize(
    ("size", "block", "band"), [(20, 8, 16), (64, 8, 8), (7, 8, 16), (33, 4, 100)]
)
def test_a_factorisation_and_its_solves(
    size: int, block: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cholesky, "BLOCK", block)
    monkeypatch.setattr(cholesky, "BAND", band)
    root = torch.randn(size, size)
    matrix = root @ root.T
    assert counted(lambda: cholesky.CholeskyFactor(matrix, 1.0)) == counts.cholesky(
        size, block, band
    )
    factor = cholesky.CholeskyFactor(root @ root.T, 1.0)
    right = torch.randn(size, 3)
    assert counted(lambda: factor.solve(right)) == counts.factor_solve(size, 3, block)


@pytest.mark.parametrize(("rows", "size"), [(10, 20), (100, 5), (333, 9)])
def test_the_metric_of_lbfgs(rows: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbfgs, "GRAM_BLOCK", 4)
    found = counted(lambda: lbfgs._gram(torch.randn(rows, size), rows, ALONE))
    assert found == counts.metric_gram(rows, size, 4)


def test_steps_of_lanczos_are_enough() -> None:
    root = torch.randn(60, 60, dtype=torch.float64)
    gram = root @ root.T
    shift = 0.01 * float(gram.diagonal().mean())
    for ratio in (4.0, 25.0, 100.0):
        factor = cholesky.CholeskyFactor(gram.clone(), shift)
        right = torch.randn(60, 2, dtype=torch.float64)
        steps = counts.lanczos_steps(ratio, 1e-5)
        shifts = [shift / ratio, shift * ratio]
        _, missing = cholesky.shifted_solutions(
            factor, right, shifts, tolerance=1e-5, max_iterations=steps
        )
        assert float(missing.max()) <= 1e-5


@pytest.mark.parametrize("size", [100, 3000, 20_000])
def test_large_sizes_come_near_the_textbook(size: int) -> None:
    assert counts.cholesky(size) <= 2 * size**3 / 3
    assert counts.factor_solve(size, 1) >= 2 * size**2
    assert size**2 <= counts.gram(1, size) <= size * (size + statistics.BAND)
