"""ADMM reaches the optimum of every gated program from a stream, by Gram matrix or by kernel."""

from __future__ import annotations

import itertools

import pytest
import torch

from convexcnn.certificates.certify import certify
from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.admm import ADMM
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.metric import GramMetric, KernelMetric, Metric
from convexcnn.solvers.optimum import Optimum, Status
from convexcnn.solvers.result import best_point
from convexcnn.solvers.warm_path import WarmPath
from small import GEOMETRIES, generator, single_features, stripe_stream

TOLERANCE = 3e-4
KINDS = [
    ProgramKind("gated", regulariser, loss)
    for regulariser, loss in itertools.product(
        ["l2", "group", "nuclear"], ["squared", "cross_entropy"]
    )
]
MANY, FEW = stripe_stream(160, mirror=True, size=7), stripe_stream(30, size=7)


def features(n_gates: int = 4) -> GatedFeatures:
    """Phi of patches of 7x7 images with four pooling cells."""
    return single_features(GEOMETRIES["even cells"], n_gates)


def largest_gap(kind: ProgramKind, stream: ImageStream, beta: float, optimum: Optimum) -> float:
    """The relative gap of the package's independent certificate."""
    program = Program.from_streams(kind, features(), [stream], beta)
    return certify(program, optimum.weights, optimum.bias).relative_gap


@pytest.mark.thorough
@pytest.mark.parametrize("stream", [MANY, FEW], ids=["gram", "kernel"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_optimum_is_certified_and_that_of_another_solver(
    kind: ProgramKind, stream: ImageStream
) -> None:
    beta = 0.01
    optimum = ADMM(TOLERANCE).prepare(kind, features(), [stream])(beta, None)
    assert optimum.status is Status.OPTIMAL
    assert largest_gap(kind, stream, beta, optimum) <= 1.1 * TOLERANCE
    program = Program.from_streams(kind, features(), [stream], beta)
    expected = Fista(1e-5, 50000).solve(program).history[-1]["primal"]
    assert optimum.history[-1]["primal"] == pytest.approx(expected, rel=2 * TOLERANCE)


def test_a_warm_start_saves_passes() -> None:
    kind = ProgramKind("gated", "group")
    at_beta = ADMM(TOLERANCE).prepare(kind, features(), [MANY])
    first = at_beta(0.004, None)
    warm, cold = at_beta(0.0038, first), at_beta(0.0038, None)
    assert len(warm.history) <= len(cold.history)
    assert warm.history[-1]["primal"] == pytest.approx(cold.history[-1]["primal"], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("stream", [MANY, FEW], ids=["gram", "kernel"])
def test_fewer_images_are_solved_with_the_factor_of_all(
    kind: ProgramKind, stream: ImageStream
) -> None:
    solver = ADMM(TOLERANCE)
    most = len(stream.images) * 9 // 10
    some, rest = stream.subset(slice(0, most)), stream.subset(slice(most, None))
    everything = solver.prepare(kind, features(), [some, rest])
    optimum = solver.restrict(everything, kind, features(), [some])(0.01, None)
    assert optimum.status is Status.OPTIMAL
    assert largest_gap(kind, some, 0.01, optimum) <= 1.1 * TOLERANCE


@pytest.mark.parametrize("make", ["gram", "kept kernel", "streamed kernel"])
def test_a_metric_solves_with_the_centred_gram_matrix(make: str) -> None:
    phi_of, streams = features(6), [FEW, MANY.subset(slice(0, 9))]
    metric: Metric
    if make == "gram":
        metric = GramMetric(phi_of, streams, chunk=7)
    else:
        metric = KernelMetric(phi_of, streams, chunk=7, keep=make == "kept kernel")
    phi = torch.cat([phi_of(images).double() for s in streams for images, _ in s.blocks(5)])
    phi -= phi.mean(0)
    gram = phi.T @ phi
    assert metric.rows == 48
    assert metric.mean_square == pytest.approx(float(gram.diagonal().mean()), rel=1e-4)
    right = torch.randn(len(gram), 3, generator=generator(5))
    for relative in (0.3, 3.0):  # a second factor does not disturb what the first was made from
        metric.factorise(relative * metric.mean_square)
        system = gram + metric.rho * torch.eye(len(gram), dtype=torch.float64)
        expected = torch.linalg.solve(system, right.double())
        torch.testing.assert_close(metric.solve(right).double(), expected, rtol=1e-3, atol=1e-5)


def test_a_heavy_regulariser_leaves_no_weights() -> None:
    kind = ProgramKind("gated", "group")
    optimum = ADMM(1e-6).prepare(kind, features(), [MANY])(10.0, None)
    assert not optimum.weights.any()
    torch.testing.assert_close(optimum.bias, torch.full((3,), 1 / 3), rtol=0.05, atol=0)


def test_what_admm_cannot_do_fails_before_it_starts() -> None:
    with pytest.raises(SettingError, match="interior-point"):
        WarmPath(ADMM(), ProgramKind("relu", "group"))


def test_a_path_chooses_by_held_out_images() -> None:
    kind = ProgramKind("gated", "group")
    train, held_out = MANY.subset(slice(0, 120)), MANY.subset(slice(120, None))
    solution = WarmPath(ADMM(1e-3), kind).solve(features(), train, held_out)
    assert solution.relative_gap <= 1e-3
    assert solution.beta == best_point(solution.path, len(held_out.labels)).beta
    assert solution.held_out_scores is not None
    assert solution.held_out_scores.shape == (40, 3)
    objectives = [point.train["objective"] for point in solution.path]
    assert objectives == sorted(objectives, reverse=True)


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_where_all_weights_are_zero_the_intercept_is_the_optimum(regulariser: str) -> None:
    """Every change of the scores is one of the intercept, which says nothing of the curvature."""
    classes = MANY.labels
    kept = (classes == 0) | (torch.arange(len(classes)).numpy() % 4 == 0)
    stream = MANY.subset(kept.nonzero()[0])
    kind = ProgramKind("gated", regulariser, "cross_entropy")
    optimum = ADMM(1e-5).prepare(kind, features(), [stream])(10.0, None)
    assert optimum.status is Status.OPTIMAL
    assert not optimum.weights.any()
    shares = torch.bincount(torch.from_numpy(stream.labels)).double()
    chances = torch.softmax(optimum.bias.double(), 0)
    torch.testing.assert_close(chances, shares / shares.sum(), atol=5e-3, rtol=0)
