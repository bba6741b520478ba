"""The certificate from blocks of patches says what the one in memory says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convexcnn.certificates.certify import ConeCertificate, certify
from convexcnn.certificates.certify_cones import certify_cones
from convexcnn.programs.multipliers import SparseMultipliers
from convexcnn.programs.program import Program
from cvxpy_oracle import oracle_optimum, tiny_program

CASES = [
    ("l2", "squared", 4, False),
    ("l2", "cross_entropy", 1, True),
    ("group", "squared", 1, True),
    ("group", "cross_entropy", 4, False),
]


def by_blocks(program: Program, weights: torch.Tensor, bias: torch.Tensor, **more: Any) -> Any:
    """The certificate of a program whose patches come five images at a time."""
    return certify_cones(
        lambda: program.patches.split(5),
        program.targets,
        program.gates,
        weights,
        bias,
        beta=program.beta,
        loss=program.loss,
        regulariser=program.regulariser,
        intercept=program.intercept,
        **more,
    )


def random_multipliers(program: Program) -> SparseMultipliers:
    """Two multipliers per cone, some of them absent."""
    generator = torch.Generator().manual_seed(9)
    shape = (2, *program.shape[:3], 2)
    n, _, q, _ = program.patches.shape
    patches = torch.randint(-1, n * q, shape, generator=generator)
    return SparseMultipliers(patches, torch.rand(shape, generator=generator).double() / n)


@pytest.mark.parametrize(("regulariser", "loss", "cells", "intercept"), CASES)
def test_bounds_bracket_the_optimum(
    regulariser: str, loss: str, cells: int, intercept: bool
) -> None:
    program = tiny_program("relu", regulariser, loss, cells=cells, intercept=intercept)
    optimum = oracle_optimum(program)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 1.0):
        weights = size * torch.randn(2, *program.shape, generator=generator, dtype=torch.float64)
        weights[0, 0, 0, 0] = 0
        bias = torch.full((2,), size * intercept, dtype=torch.float64)
        for more in ({}, {"multipliers": random_multipliers(program)}):
            bound = by_blocks(program, weights, bias, **more)
            assert bound.dual <= optimum * (1 + 1e-8)
            assert bound.primal >= optimum * (1 - 1e-8)
            in_memory = certify(program, weights, bias, **more)
            assert isinstance(in_memory, ConeCertificate)
            assert bound.primal == pytest.approx(in_memory.primal, rel=1e-12)
            assert bound.violation == pytest.approx(in_memory.violation, rel=1e-12)
            assert (bound.program, bound.scope) == (in_memory.program, in_memory.scope)


def test_no_weights_break_nothing() -> None:
    program = tiny_program("relu")
    zero = torch.zeros(2, *program.shape, dtype=torch.float64)
    bound = by_blocks(program, zero, program.targets.mean(0))
    assert bound.violation == 0
    assert bound.primal > bound.dual


def test_sparse_multipliers_are_the_dense_ones() -> None:
    program = tiny_program("relu", cells=4)
    sparse = random_multipliers(program)
    n, _, q, _ = program.patches.shape
    dense = sparse.dense(n * q)
    assert dense.shape == (2, *program.shape[:3], n * q)
    kept = sparse.values[sparse.patches >= 0]
    assert float(dense.sum()) == pytest.approx(float(kept.sum()))
    place = sparse.patches[1, 0, 2, 1]
    for patch, value in zip(place.tolist(), sparse.values[1, 0, 2, 1].tolist(), strict=True):
        assert patch < 0 or dense[1, 0, 2, 1, patch] >= value
