"""Certificates bracket the optimum that an independent interior-point method finds."""

from __future__ import annotations

import pytest
import torch

from convexcnn.certificates.certify import ConeCertificate, certify
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
