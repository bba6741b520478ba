"""Factored descent ends at the optimum of the convex program and claims what its dual shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from convexcnn.certificates.certify import certify
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.block import BatchStatistics
from convexcnn.programs.factored import FactoredProgram
from convexcnn.programs.gated import GatedProgram
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import LOSSES, get_loss
from convexcnn.programs.program import Program
from convexcnn.solvers.burer_monteiro import BurerMonteiro
from convexcnn.solvers.optimum import Optimum, Status
from convexcnn.solvers.registry import BETA_SOLVERS, solvers_for
from convexcnn.solvers.warm_path import WarmPath
from cvxpy_oracle import oracle_optimum
from small import generator, stripe_stream

N, K, BETA = 24, 3, 0.02
GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2, cells=2)
STREAM = stripe_stream(N)
TRANSFORM = fit_whitening(STREAM.block(slice(None))[0], GEOMETRY, 4)
GATES = torch.randn(3, TRANSFORM.dim, generator=generator(4))
KINDS = [
    ProgramKind("gated", "nuclear", loss, intercept, pooling)
    for loss in LOSSES
    for intercept in (True, False)
    for pooling in ("average", "max")
]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k} {k.intercept}")


def features(pool: str = "average") -> GatedFeatures:
    return GatedFeatures(GEOMETRY, TRANSFORM, GATES, pool)


def solve(solver: BurerMonteiro, kind: ProgramKind, beta: float = BETA, **kwargs) -> Optimum:
    at_beta = solver.prepare(kind, features(kind.pooling), [STREAM], kwargs.pop("callback", None))
    return at_beta(beta, kwargs.pop("start", None))


def in_memory(kind: ProgramKind, beta: float = BETA) -> Program:
    return Program.from_streams(kind, features(kind.pooling), [STREAM], beta)


@EVERY_KIND
def test_descent_ends_at_the_optimum_of_the_oracle(kind: ProgramKind) -> None:
    program = in_memory(kind)
    expected = oracle_optimum(program)
    optimum = solve(BurerMonteiro(1e-3), kind)
    assert optimum.status is Status.OPTIMAL
    assert optimum.history[-1]["relative_gap"] <= 1e-3
    found = program.objective(optimum.weights.double(), optimum.bias.double())
    assert expected * (1 - 1e-6) <= found <= expected * (1 + 2e-4)
    bound = certify(program, optimum.weights, optimum.bias)
    assert -1e-6 <= bound.relative_gap <= 1.01e-3
    assert optimum.history[-1]["primal"] == pytest.approx(bound.primal, rel=1e-5)
    if not kind.intercept:
        assert not optimum.bias.any()


@EVERY_KIND
@pytest.mark.parametrize("iterations", [1, 20])
def test_no_bound_on_the_way_passes_the_optimum(kind: ProgramKind, iterations: int) -> None:
    expected = oracle_optimum(in_memory(kind))
    solver = BurerMonteiro(1e-12, epochs=1, batch_size=7, max_iterations=iterations)
    optimum = solve(solver, kind)
    assert optimum.status in (Status.ITERATION_LIMIT, Status.STALLED)
    for row in optimum.history:
        assert row["dual"] <= expected * (1 + 1e-5)
        assert row["primal"] >= expected * (1 - 1e-5)
        assert row["relative_gap"] == pytest.approx(1 - row["dual"] / row["primal"])


def test_a_rank_too_small_is_shown_by_the_gap() -> None:
    kind = ProgramKind("gated", "nuclear")
    optimum = solve(BurerMonteiro(1e-4, rank=1, max_iterations=200), kind, beta=1e-3)
    assert optimum.status is not Status.OPTIMAL
    program = in_memory(kind, 1e-3)
    found = program.objective(optimum.weights.double(), optimum.bias.double())
    assert found > oracle_optimum(program) * (1 + 1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_autograd(loss: str) -> None:
    wide = features()
    wide = GatedFeatures(GEOMETRY, TRANSFORM.double(), GATES.double())
    program = FactoredProgram(wide, K, get_loss(loss), rank=2, beta=0.3, generator=generator(1))
    images, targets = (part.double() for part in STREAM.block(slice(None)))
    with torch.no_grad():
        for parameter in program.parameters:
            parameter += torch.randn(parameter.shape, generator=generator(2), dtype=torch.float64)
        program.batch_gradient(images, targets, BatchStatistics())
        found = [parameter.grad.clone() for parameter in program.parameters]  # type: ignore[union-attr]
        program.zero_grad()
        _, scores = program.add_gradient(images, targets, 1 / N)
        program.regularise()
        for parameter, expected in zip(program.parameters, found, strict=True):
            torch.testing.assert_close(parameter.grad, expected)
        torch.testing.assert_close(program.scores(images), scores)
        phi = wide(images)
    for parameter in program.parameters:
        parameter.requires_grad_()
    scores = phi @ program.weights.flatten(1).T + program.bias
    squares = program.left.square().sum() + program.right.square().sum()
    value = program.loss.value(scores, targets) / N + 0.15 * squares
    for mine, theirs in zip(found, torch.autograd.grad(value, program.parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_start_is_taken_up() -> None:
    kind = ProgramKind("gated", "nuclear")
    first = solve(BurerMonteiro(1e-4), kind)
    again = solve(BurerMonteiro(1e-3, epochs=0), kind, start=first)
    assert len(again.history) < len(solve(BurerMonteiro(1e-3, epochs=0), kind).history)
    gated = GatedProgram(features(), K, get_loss("squared"))
    program = FactoredProgram(features(), K, get_loss("squared"), rank=5, generator=generator())
    with torch.no_grad():
        program.left.zero_()
        program.right.zero_()
        program.start_at(first.weights, first.bias)
    torch.testing.assert_close(program.weights, first.weights, rtol=1e-4, atol=1e-5)
    gated.weights, gated.bias = first.weights.flatten(1), first.bias
    images, _ = STREAM.block(slice(None))
    torch.testing.assert_close(program.scores(images), gated.scores(images), rtol=1e-4, atol=1e-5)


def test_a_path_of_betas_is_walked_and_refitted_on_all_images() -> None:
    kind = ProgramKind("gated", "nuclear")
    validation = stripe_stream(12, seed=9)
    solution = WarmPath(BurerMonteiro(1e-3), kind, [0.1, 0.03]).solve(
        features(), STREAM, validation
    )
    assert [point.beta for point in solution.path] == [0.1, 0.03]
    assert solution.status is Status.OPTIMAL
    assert solution.relative_gap <= 1e-3
    held_out = solution.held_out_scores
    assert held_out is not None
    assert held_out.shape == (12, K)


def test_the_same_seed_gives_the_same_bits_and_events_are_json() -> None:
    kind, told = ProgramKind("gated", "nuclear"), []
    first = solve(BurerMonteiro(1e-3), kind, callback=told.append)
    again = solve(BurerMonteiro(1e-3), kind)
    assert torch.equal(first.weights, again.weights)
    assert {"train_loss", "relative_gap"} <= {key for event in told for key in event}
    json.dumps(told)
    seconds = [row["seconds"] for row in first.history]
    assert np.all(np.diff(seconds) >= 0)


def test_only_nuclear_norms_are_factored() -> None:
    assert "burer-monteiro" in BETA_SOLVERS
    assert "burer-monteiro" in solvers_for(ProgramKind("gated", "nuclear", pooling="max"))
    with pytest.raises(SettingError, match="interior-point or admm or fista"):
        BurerMonteiro().check(ProgramKind("gated", "group", "cross_entropy"))
