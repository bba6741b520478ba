"""FISTA gives the same optimum from a stream as from memory, with and without an active set."""

from __future__ import annotations

import itertools

import pytest
import torch

from convexcnn.certificates.certify import certify
from convexcnn.patches.operator import GatedFeatures
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers import fista
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.products import ProductsInMemory, StreamedProducts
from small import GEOMETRIES, generator, single_features, stripe_stream

GEOMETRY = GEOMETRIES["even cells"]
STREAM = stripe_stream(40, size=7)
KINDS = [
    ProgramKind("gated", regulariser, loss, intercept)
    for regulariser, loss, intercept in itertools.product(
        ["l2", "group", "nuclear"], ["squared", "cross_entropy"], [True, False]
    )
]


def features(n_gates: int = 8) -> GatedFeatures:
    return single_features(GEOMETRY, n_gates)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_stream_has_the_optimum_of_memory(kind: ProgramKind) -> None:
    beta = 0.02
    streamed = Fista(1e-5, memory_gb=0).prepare(kind, features(), [STREAM])(beta, None)
    kept = Fista(1e-5).prepare(kind, features(), [STREAM])(beta, None)
    assert streamed.status is kept.status is Status.OPTIMAL
    assert streamed.history[-1]["primal"] == pytest.approx(kept.history[-1]["primal"], rel=2e-5)
    program = Program.from_streams(kind, features(), [STREAM], beta)
    bound = certify(program, streamed.weights, streamed.bias)
    assert bound.relative_gap <= 1.01e-5
    if not kind.intercept:
        assert not streamed.bias.any()


@pytest.mark.parametrize("regulariser", ["l2", "group"])
def test_features_whose_sum_says_little_are_no_trouble(regulariser: str) -> None:
    """It lies along one direction of the patches, and they vary nine times as much in another."""
    patches = torch.ones(20, 1, 1, 2, dtype=torch.float64)
    patches[::2, 0, 0, 1], patches[1::2, 0, 0, 1] = 3, -3
    targets = torch.eye(2, dtype=torch.float64)[torch.arange(20) % 2]
    targets[0] = targets[1]
    gates = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    program = Program(patches, gates, targets, 0.01, regulariser=regulariser)
    found = Fista(1e-6).solve(program)
    assert found.status is Status.OPTIMAL
    assert certify(program, found.weights, found.bias).relative_gap <= 1.1e-6


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_an_active_set_works_with_few_gates(
    regulariser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, worked = ProgramKind("gated", regulariser), []
    measure = ProductsInMemory.measure

    def count(self: ProductsInMemory, *given: object) -> object:
        worked.append(self.shape[1])
        return measure(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ProductsInMemory, "measure", count)
    heavy = 0.06
    optimum = Fista(1e-6).prepare(kind, features(), [STREAM])(heavy, None)
    assert optimum.status is Status.OPTIMAL
    assert min(worked) < 8 == max(worked)
    monkeypatch.setattr(fista, "WORTH_IT", 0.0)
    without = Fista(1e-6).prepare(kind, features(), [STREAM])(heavy, None)
    expected = without.history[-1]["primal"]
    assert optimum.history[-1]["primal"] == pytest.approx(expected, rel=2e-6)


def test_a_warm_start_saves_iterations() -> None:
    at_beta = Fista(1e-4).prepare(ProgramKind("gated", "group"), features(), [STREAM])
    first = at_beta(0.02, None)
    assert len(at_beta(0.019, first).history) < len(at_beta(0.019, None).history)


def test_products_of_some_gates_are_those_of_a_stream() -> None:
    whole, kept = features(), torch.tensor([1, 4, 6])
    kind = ProgramKind("gated", "group")
    program = Program.from_streams(kind, whole, [STREAM], 1.0)
    memory = ProductsInMemory.of(program).of_gates(kept)
    stream = StreamedProducts(whole, [STREAM]).of_gates(kept)
    assert memory.shape == stream.shape == (4, 3, whole.shape[2])
    k, size = program.targets.shape[1], 4 * 3 * whole.shape[2]
    weights = torch.randn(k, size, generator=generator(2), dtype=torch.float64)
    bias, vector = torch.randn(k).double(), torch.randn(size, 1).double()
    exact = memory.measure(program.loss_function, weights, bias)
    found = stream.measure(program.loss_function, weights, bias)
    for mine, theirs in zip(exact, found, strict=True):
        torch.testing.assert_close(mine, theirs.double(), rtol=1e-4, atol=1e-4)
    expected = memory.gram_times(vector)
    torch.testing.assert_close(stream.gram_times(vector), expected, rtol=1e-4, atol=1e-4)
