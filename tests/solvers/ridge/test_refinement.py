"""The measured duality gap is the true one, and refinement ends where it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from convexcnn import reference
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_whitening
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.ridge.refinement import MAX_ROUNDS, ExactRidge, refine
from small import generator, stripe_stream

GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2)
BETA = 0.02

EVERY_STREAM = pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])


class Problem:
    """A ridge regression on two streams, streamed and explicit."""

    def __init__(self, mirror: bool = False) -> None:
        stream = stripe_stream(40, mirror=mirror)
        transform = fit_whitening(stream.block(slice(None))[0], GEOMETRY, 6)
        gates = torch.randn(5, 7, generator=generator())
        self.features = GatedFeatures(GEOMETRY, transform, gates)
        self.streams: list[ImageStream] = [
            stream.subset(slice(0, 25)),
            stream.subset(slice(25, None)),
        ]
        self.ridge = ExactRidge(self.features, self.streams, BETA)
        exact = self.features.double()
        blocks = [block for part in self.streams for block in part.blocks(100)]
        self.phi = torch.cat([exact(images.double()) for images, _ in blocks]).numpy()
        self.targets = torch.cat([y for _, y in blocks]).double().numpy()
        self.optimum, self.bias = reference.ridge_optimum(self.phi, self.targets, BETA)

    def random(self) -> Tensor:
        return torch.randn(self.optimum.shape, generator=generator(5)) * 0.1


@EVERY_STREAM
def test_the_gap_is_primal_minus_the_dual_value_of_the_residual(mirror):
    problem = Problem(mirror)
    weights = problem.random()
    found = problem.ridge.measure(weights)
    v, n = weights.double().numpy(), len(problem.phi)
    residual = problem.targets - problem.phi @ v.T
    bias = residual.mean(0)
    residual -= bias
    primal = reference.gated_objective(problem.phi, v, bias, problem.targets, BETA)
    pulled = problem.phi.T @ residual
    dual = (residual * problem.targets).sum() / n - (residual**2).sum() / (2 * n)
    dual -= (pulled**2).sum() / (2 * BETA * n**2)
    np.testing.assert_allclose(found.bias, bias)
    np.testing.assert_allclose(found.residual, residual, atol=1e-12)
    np.testing.assert_allclose(found.gradient, BETA * v - pulled.T / n, atol=1e-12)
    np.testing.assert_allclose(found.mean, problem.phi.mean(0), atol=1e-12)
    assert found.primal == pytest.approx(primal, rel=1e-12)
    assert found.gap == pytest.approx(primal - dual, rel=1e-9)
    assert found.relative_gap == pytest.approx(found.gap / primal, rel=1e-12)
    assert found.loss == pytest.approx(primal - 0.5 * BETA * (v**2).sum(), rel=1e-12)


def test_the_optimum_has_no_gap():
    problem = Problem()
    found = problem.ridge.measure(torch.from_numpy(problem.optimum))
    assert found.relative_gap < 1e-20
    np.testing.assert_allclose(found.bias, problem.bias, atol=1e-12)


def test_pulling_adds_the_features_of_all_images():
    problem = Problem(mirror=True)
    dual = torch.randn(len(problem.phi), 3, generator=generator(6), dtype=torch.float64)
    np.testing.assert_allclose(problem.ridge.pull(dual), dual.numpy().T @ problem.phi, atol=1e-12)


def test_a_correction_that_approaches_the_optimum_is_repeated_until_the_gap_is_small():
    problem = Problem()
    optimum, weights = torch.from_numpy(problem.optimum), problem.random()

    def approach(found):
        nonlocal weights
        step = 0.9 * (optimum - weights)
        weights = weights + step
        return step

    refined = refine(problem.ridge, weights, approach, 1e-4)
    assert refined.status is Status.OPTIMAL
    gaps = [row["relative_gap"] for row in refined.history]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] <= 1e-4 < gaps[-2]
    assert refined.measure.relative_gap == pytest.approx(gaps[-1], rel=1e-6)
    assert refined.weights.dtype == torch.float32


def test_a_correction_that_makes_things_worse_is_not_taken():
    problem = Problem()
    start = problem.random()
    refined = refine(problem.ridge, start, lambda found: torch.ones_like(start), 1e-6)
    assert refined.status is Status.STALLED
    assert torch.equal(refined.weights, start)
    assert refined.measure.gap == problem.ridge.measure(start).gap


def test_refinement_ends_when_there_is_no_further_correction():
    problem = Problem()
    refined = refine(problem.ridge, problem.random(), lambda found: None, 1e-6)
    assert refined.status is Status.ITERATION_LIMIT
    assert len(refined.history) == 1


def test_refinement_ends_after_its_rounds():
    problem = Problem()
    optimum, weights = torch.from_numpy(problem.optimum), problem.random()

    def approach(found):
        nonlocal weights
        step = 0.4 * (optimum - weights)
        weights = weights + step
        return step

    refined = refine(problem.ridge, weights, approach, 1e-12)
    assert refined.status is Status.ITERATION_LIMIT
    assert len(refined.history) == MAX_ROUNDS
