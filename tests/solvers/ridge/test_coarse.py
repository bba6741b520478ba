"""The coarse start is the best point of its subspace, and the optimum if that is everything."""

from __future__ import annotations

import pytest
import torch

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import identity_transform
from convexcnn.solvers.ridge import coarse
from convexcnn.solvers.ridge.coarse import CoarseFeatures, coarse_solutions
from convexcnn.solvers.ridge.refinement import ExactRidge
from small import generator, stripe_stream

GATES, KEPT = 6, 5
BETAS = [0.05, 0.5]


@pytest.fixture(autouse=True)
def few_directions(monkeypatch):
    monkeypatch.setattr(coarse, "DIRECTIONS", KEPT)


def make_problem(cells: int = 1, mirror: bool = False) -> tuple[GatedFeatures, ImageStream]:
    geometry = PatchGeometry((1, 8, 8), 4, stride=2, cells=cells)
    gates = torch.randn(GATES, geometry.patch_dim, generator=generator())
    features = GatedFeatures(geometry, identity_transform(geometry.patch_dim), gates)
    return features, stripe_stream(40, mirror=mirror)


def images_of(stream: ImageStream) -> torch.Tensor:
    return stream.block(slice(None))[0]


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("gates", [1, 3, GATES])
def test_coarse_features_are_products_with_what_prolongs(cells, gates):
    features, stream = make_problem(cells)
    small = CoarseFeatures(features, images_of(stream), gates * cells**2 * KEPT)
    assert small.shape == (cells**2, gates, KEPT)
    matrix = small.prolong(torch.eye(small.n_features))
    expected = features(images_of(stream)) @ matrix
    torch.testing.assert_close(small(images_of(stream)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(small.n_features))


def test_one_gate_is_the_least():
    features, stream = make_problem()
    assert CoarseFeatures(features, images_of(stream), 1).shape == (1, 1, KEPT)


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
@pytest.mark.parametrize("chunk", [6, 100])
def test_the_start_is_the_best_of_its_subspace(mirror, chunk):
    features, stream = make_problem(mirror=mirror)
    starts = coarse_solutions(features, stream, BETAS, 3 * KEPT, chunk)
    assert starts.shape == (features.n_features, len(BETAS), 3)
    matrix = CoarseFeatures(features, images_of(stream), 3 * KEPT)
    basis = matrix.prolong(torch.eye(matrix.n_features)).double()
    for index, beta in enumerate(BETAS):
        found = ExactRidge(features, [stream], beta).measure(starts[:, index].T)
        assert (found.gradient @ basis).abs().max() < 1e-4
        assert found.relative_gap > 1e-3


def test_the_start_is_the_optimum_if_everything_is_kept(monkeypatch):
    features, stream = make_problem(2)
    monkeypatch.setattr(coarse, "DIRECTIONS", 1000)
    starts = coarse_solutions(features, stream, BETAS, 10**6, 100)
    for index, beta in enumerate(BETAS):
        found = ExactRidge(features, [stream], beta).measure(starts[:, index].T)
        assert found.relative_gap < 1e-6
