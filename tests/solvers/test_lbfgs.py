"""L-BFGS reaches the optimum of every gated program with l2, from features in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convexcnn.certificates.certify import certify
from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.lbfgs import LBFGS, _Data, _factor
from convexcnn.solvers.optimum import Optimum, Status
from convexcnn.solvers.result import best_point
from convexcnn.solvers.warm_path import WarmPath
from cvxpy_oracle import tiny_program
from small import GEOMETRIES, generator, single_features, stripe_stream

KINDS = [
    ProgramKind("gated", "l2", loss, intercept)
    for loss in ("squared", "cross_entropy")
    for intercept in (True, False)
]
LOGISTIC = ProgramKind("gated", "l2", "cross_entropy")
MANY, FEW = stripe_stream(160, mirror=True, size=7), stripe_stream(30, size=7)
TOLERANCE = 1e-4


def features(n_gates: int = 4) -> GatedFeatures:
    """Phi of patches of 7x7 images with four pooling cells, in float32."""
    return single_features(GEOMETRIES["even cells"], n_gates)


def gap(kind: ProgramKind, streams: list[ImageStream], beta: float, optimum: Optimum) -> float:
    """The relative gap of the package's independent certificate."""
    program = Program.from_streams(kind, features(), streams, beta)
    return certify(program, optimum.weights.double(), optimum.bias.double()).relative_gap


@pytest.mark.parametrize("stream", [MANY, FEW], ids=["many", "few"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.loss}-{k.intercept}")
def test_optimum_is_certified_and_that_of_another_solver(
    kind: ProgramKind, stream: ImageStream
) -> None:
    beta = 0.01
    optimum = LBFGS(TOLERANCE).prepare(kind, features(), [stream])(beta, None)
    assert optimum.status is Status.OPTIMAL
    assert optimum.weights.dtype is torch.float32
    assert gap(kind, [stream], beta, optimum) <= 1.1 * TOLERANCE
    program = Program.from_streams(kind, features(), [stream], beta)
    expected = InteriorPoint(1e-7).solve(program).history[-1]["primal"]
    assert optimum.history[-1]["primal"] == pytest.approx(expected, rel=2 * TOLERANCE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.loss}-{k.intercept}")
@pytest.mark.parametrize("steps", [0, 1, 2, 20])
def test_its_gap_is_that_of_the_certificate(kind: ProgramKind, steps: int) -> None:
    program = tiny_program("gated", "l2", kind.loss, cells=4, intercept=kind.intercept)
    optimum = LBFGS(0.0, steps, interval=1).solve(program)
    last = optimum.history[-1]
    bound = certify(program, optimum.weights, optimum.bias)
    assert last["primal"] == pytest.approx(bound.primal, rel=1e-12)
    if kind.loss == "squared" or steps == 20:
        assert last["dual"] == pytest.approx(bound.dual, rel=1e-9)
        assert last["relative_gap"] == pytest.approx(bound.relative_gap, rel=1e-6, abs=1e-12)
    else:  # far from the optimum, the certificate looks for the best multiple of the dual point
        assert last["dual"] <= bound.dual * (1 + 1e-12)


def test_squared_loss_needs_one_step() -> None:
    kind = ProgramKind()
    stream = stripe_stream(60, size=7)
    optimum = LBFGS(1e-5, interval=1).prepare(kind, features(), [stream])(0.01, None)
    assert optimum.status is Status.OPTIMAL
    assert len(optimum.history) == 2


def test_a_warm_start_saves_steps() -> None:
    at_beta = LBFGS(TOLERANCE, interval=1).prepare(LOGISTIC, features(), [MANY])
    first = at_beta(0.004, None)
    warm, cold, again = at_beta(0.0036, first), at_beta(0.0036, None), at_beta(0.004, first)
    assert len(warm.history) < len(cold.history)
    assert len(again.history) == 1
    assert warm.history[-1]["primal"] == pytest.approx(cold.history[-1]["primal"], rel=1e-3)


@pytest.mark.parametrize("order", [[0], [1], [0, 1]], ids=["first", "last", "all"])
def test_some_of_the_images_are_solved_with_what_is_known_of_all(order: list[int]) -> None:
    most = len(MANY.images) * 9 // 10
    parts = [MANY.subset(slice(0, most)), MANY.subset(slice(most, None))]
    some = [parts[i] for i in order]
    solver = LBFGS(TOLERANCE)
    everything: Any = solver.prepare(LOGISTIC, features(), parts)
    at_beta: Any = solver.restrict(everything, LOGISTIC, features(), some)
    shares = at_beta.data.phi.data_ptr() == everything.data.phi.data_ptr()
    assert shares == (order[0] == 0)  # the first images are not gathered again
    optimum = at_beta(0.01, None)
    assert optimum.status is Status.OPTIMAL
    assert gap(LOGISTIC, some, 0.01, optimum) <= 1.1 * TOLERANCE


def test_features_are_gathered_once_about_their_mean() -> None:
    at_beta: Any = LBFGS().prepare(LOGISTIC, features(), [FEW, MANY])
    phi = torch.cat([features()(images) for s in (FEW, MANY) for images, _ in s.blocks(5)]).double()
    data = at_beta.data
    torch.testing.assert_close(data.phi.double() + data.mean, phi, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.cross, data.targets.T @ data.phi.double(), rtol=1e-4, atol=1e-4)
    centred = phi - phi.mean(0)
    expected = (centred.T @ centred / len(phi)).tril()
    torch.testing.assert_close(data.gram.double().tril(), expected, rtol=1e-3, atol=1e-5)


def test_a_metric_that_rounding_made_indefinite_is_factorised_all_the_same() -> None:
    root = torch.randn(2, 30, generator=generator(1))
    gram = root.T @ root - 1e-6 * torch.eye(30)
    factor = _factor(gram, 1.0, 1e-12)
    assert bool(factor.isfinite().all())
    torch.testing.assert_close(factor @ factor.T, gram.double(), rtol=1e-3, atol=1e-3)


def test_wide_and_constant_features_are_solved_too() -> None:
    phi = torch.randn(12, 700, generator=generator(2), dtype=torch.float64)
    phi[:, :50] = 1
    data = _Data.of(phi, torch.ones(12, 2, dtype=torch.float64), (1, 70, 10), centre=True)
    assert float(data.phi[:, :50].abs().max()) == 0
    expected = (phi.T @ phi / 12).tril()
    torch.testing.assert_close(data.gram.tril(), expected)


def test_it_says_how_far_it_is() -> None:
    events: list[dict[str, Any]] = []
    optimum = LBFGS(TOLERANCE).prepare(LOGISTIC, features(), [MANY], events.append)(0.01, None)
    assert [event["relative_gap"] for event in events] == [
        row["relative_gap"] for row in optimum.history
    ]
    assert {event["phase"] for event in events} == {"lbfgs at beta 0.01"}
    assert [event["step"] for event in events] == list(range(0, 4 * len(events), 4))


def test_limits_and_rounding_are_reported() -> None:
    at_beta = LBFGS(1e-5, 2).prepare(LOGISTIC, features(), [MANY])
    assert at_beta(0.001, None).status is Status.ITERATION_LIMIT
    optimum = LBFGS(1e-8).prepare(LOGISTIC, features(), [MANY])(1e-7, None)
    assert optimum.status is Status.STALLED
    primals = [row["primal"] for row in optimum.history]
    assert primals[-1] == min(primals)
    program = Program.from_streams(LOGISTIC, features(), [MANY], 1e-7)
    expected = InteriorPoint(1e-6).solve(program).history[-1]["primal"]
    assert primals[-1] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        (ProgramKind("gated", "group"), "admm"),
        (ProgramKind("gated", "nuclear", "cross_entropy"), "fista"),
        (ProgramKind("relu", "l2"), "interior-point"),
    ],
    ids=str,
)
def test_other_kinds_are_refused_with_what_solves_them(kind: ProgramKind, instead: str) -> None:
    with pytest.raises(SettingError, match=f"solver lbfgs cannot solve .*{instead}"):
        LBFGS().prepare(kind, features(), [FEW])


def test_a_path_chooses_by_held_out_images() -> None:
    train, held_out = MANY.subset(slice(0, 120)), MANY.subset(slice(120, None))
    solution = WarmPath(LBFGS(1e-4), LOGISTIC).solve(features(), train, held_out)
    assert solution.solver == "lbfgs"
    assert solution.relative_gap <= 1e-4
    assert solution.beta == best_point(solution.path, len(held_out.labels)).beta
    objectives = [point.train["objective"] for point in solution.path]
    assert objectives == sorted(objectives, reverse=True)
