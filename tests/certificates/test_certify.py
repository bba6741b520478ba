"""Certificates bracket the optimum that an independent interior-point method finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_certify_cones import by_blocks

from convexcnn.certificates.certify import ConeCertificate, _feature_rows, certify
from convexcnn.certificates.dual_bound import certificate_of
from convexcnn.errors import SettingError
from convexcnn.programs.cones import cone_decomposition, shift_into_cones
from convexcnn.programs.program import Program
from cvxpy_oracle import oracle_optimum, tiny_program
from small import relative_violation

CASES = [
    ("gated", "l2", "squared", 1, True),
    ("gated", "l2", "cross_entropy", 4, False),
    ("gated", "group", "squared", 4, False),
    ("gated", "group", "cross_entropy", 1, True),
    ("gated", "nuclear", "squared", 1, False),
    ("gated", "nuclear", "cross_entropy", 4, True),
    ("relu", "l2", "squared", 1, False),
    ("relu", "l2", "cross_entropy", 1, True),
    ("relu", "group", "squared", 4, True),
    ("relu", "group", "cross_entropy", 1, False),
]


def weights_of(program: Program, seed: int, size: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = program.shape if program.formulation == "gated" else (2, *program.shape)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("formulation", "regulariser", "loss", "cells", "intercept"), CASES)
def test_bounds_bracket_the_optimum(
    formulation: str, regulariser: str, loss: str, cells: int, intercept: bool
) -> None:
    program = tiny_program(formulation, regulariser, loss, cells=cells, intercept=intercept)
    optimum = oracle_optimum(program)
    for seed in range(8):
        weights = weights_of(program, seed, 10.0 ** (seed % 4 - 3))
        bias = torch.full((2,), 0.1 * seed * intercept, dtype=torch.float64)
        bound = certify(program, weights, bias)
        assert bound.dual <= optimum * (1 + 1e-8)
        assert bound.primal >= optimum * (1 - 1e-8)
        assert bound.gap == pytest.approx(bound.primal - bound.dual)
        if formulation == "gated":
            assert bound.primal == pytest.approx(program.objective(weights, bias), rel=1e-12)


@pytest.mark.parametrize(("formulation", "regulariser", "loss", "cells", "intercept"), CASES)
def test_solutions_that_go_too_far_are_bounded_all_the_same(
    formulation: str, regulariser: str, loss: str, cells: int, intercept: bool
) -> None:
    """Beyond the labels the residual points away from them, which no multiple may turn around."""
    settings = {"cells": cells, "intercept": intercept, "beta": 1e-4}
    program = tiny_program(formulation, regulariser, loss, **settings)
    optimum = oracle_optimum(program)
    phi = torch.cat(list(_feature_rows(program)))
    fitted = torch.linalg.pinv(phi) @ program.targets.double()
    for factor in (-2.0, 1.5, 2.0, 3.0):
        weights = factor * fitted.T.reshape(program.shape)
        if formulation == "relu":
            weights = cone_decomposition([program.patches], program.gates, weights)
        bound = certify(program, weights, torch.zeros(2, dtype=torch.float64))
        assert bound.dual <= optimum * (1 + 1e-8)
        assert bound.relative_gap > 0.1


def test_filters_that_no_move_along_their_gate_brings_into_a_cone_are_left_out() -> None:
    patches = torch.zeros(4, 1, 2, 3, dtype=torch.float64)
    patches[:, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    patches[:, 0, 1, 1] = -1  # at a right angle to the gate, on, and no move changes what it gives
    gates = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    targets = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
    program = Program(patches, gates, targets, 0.01, formulation="relu")
    weights = torch.zeros(2, *program.shape, dtype=torch.float64)
    weights[0, 0, 0, 0, 1] = 1.0
    bias = targets.mean(0)
    nothing = certify(program, torch.zeros_like(weights), bias)
    for bound in (certify(program, weights, bias), by_blocks(program, weights, bias)):
        assert bound.violation == 1
        assert bound.primal == pytest.approx(nothing.primal)
        assert bound.dual <= bound.primal


@pytest.mark.parametrize("regulariser", ["l2", "group"])
def test_a_class_that_has_no_images_and_no_chance_leaves_a_bound(regulariser: str) -> None:
    program = tiny_program(regulariser=regulariser, loss="cross_entropy")
    targets = torch.cat([program.targets, torch.zeros(len(program.targets), 1)], 1)
    three = replace(program, targets=targets)
    bias = torch.tensor([0.0, 0.0, -1000.0], dtype=torch.float64)
    bound = certify(three, torch.zeros(three.shape, dtype=torch.float64), bias)
    assert 0 < bound.dual <= bound.primal


@pytest.mark.parametrize("dual", [1.1, float("nan"), float("inf")])
def test_a_bound_that_bounds_nothing_claims_nothing(dual: float) -> None:
    bound = certificate_of("program", "scope", 1.0, dual)
    assert (bound.gap, bound.relative_gap) == (float("inf"), float("inf"))
    assert certificate_of("program", "scope", 1.0, 1 + 1e-9).relative_gap == pytest.approx(-1e-9)


def test_relu_weights_are_moved_into_their_cones() -> None:
    program = tiny_program("relu")
    weights = weights_of(program, 3, 1.0)
    assert relative_violation(program, weights) > 0.1
    moved, shift = shift_into_cones(program, weights)
    assert relative_violation(program, moved) < 1e-15
    assert (shift >= 0).all()
    bound = certify(program, weights, torch.zeros(2, dtype=torch.float64))
    assert isinstance(bound, ConeCertificate)
    assert bound.violation == pytest.approx(relative_violation(program, weights))
    assert bound.primal == pytest.approx(program.objective(moved, torch.zeros(2).double()))


def test_cone_decomposition_keeps_training_scores() -> None:
    program = tiny_program(cells=4)
    weights = weights_of(program, 5, 1.0)
    pair = cone_decomposition(torch.split(program.patches, 5), program.gates, weights)
    torch.testing.assert_close(pair[0] - pair[1], weights)
    assert relative_violation(program, pair) < 1e-15


def test_impossible_programs_fail_before_anything_starts() -> None:
    with pytest.raises(SettingError, match="use formulation gated"):
        tiny_program("relu", "nuclear")
    with pytest.raises(SettingError, match="positive"):
        tiny_program(beta=0.0)
    with pytest.raises(SettingError, match="gated, relu"):
        tiny_program("exact")
