"""One blocked factorisation: its parts, its solves, and a whole path of shifts from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.solvers.linear_algebra import cholesky
from convexcnn.solvers.linear_algebra.cholesky import CholeskyFactor, shifted_solutions
from small import generator

BLOCK = 4
SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK, 5 * BLOCK + 3, 11 * BLOCK + 1]
SHIFT = 0.3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cholesky, "BLOCK", BLOCK)


def covariance(size: int, rank: int | None = None) -> Tensor:
    """A random positive semi-definite matrix, float64."""
    rows = torch.randn(rank or size, size, generator=generator(size), dtype=torch.float64)
    return rows.T @ rows / len(rows)


def right_side(size: int, columns: int = 3) -> Tensor:
    return torch.randn(size, columns, generator=generator(99), dtype=torch.float64)


def shifted(matrix: Tensor, shift: float = SHIFT) -> Tensor:
    return matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype)


@pytest.mark.parametrize("size", SIZES)
def test_the_factor_is_the_cholesky_factor(size):
    matrix = covariance(size)
    factor = CholeskyFactor(matrix.clone(), SHIFT)
    expected = torch.linalg.cholesky(shifted(matrix))
    torch.testing.assert_close(factor.lower.tril(), expected, rtol=1e-10, atol=1e-10)


def test_only_the_lower_triangle_is_read():
    matrix = covariance(19)
    factor = CholeskyFactor(matrix.tril() + 1e6 * torch.ones_like(matrix).triu(1), SHIFT)
    expected = torch.linalg.cholesky(shifted(matrix))
    torch.testing.assert_close(factor.lower.tril(), expected)


def test_the_factor_overwrites_its_matrix():
    matrix = covariance(9)
    assert CholeskyFactor(matrix, SHIFT).lower is matrix


@pytest.mark.parametrize("size", SIZES)
def test_solves_undo_products(size):
    matrix, right = covariance(size), right_side(size)
    before = right.clone()
    factor = CholeskyFactor(matrix.clone(), SHIFT)
    lower = torch.linalg.cholesky(shifted(matrix))
    torch.testing.assert_close(lower @ factor.solve_lower(right), right)
    torch.testing.assert_close(lower.T @ factor.solve_upper(right), right)
    torch.testing.assert_close(shifted(matrix) @ factor.solve(right), right)
    assert torch.equal(right, before)


@pytest.mark.parametrize("lead", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 1, 18, 19])
def test_the_leading_block_has_a_factor_of_its_own(lead):
    matrix = covariance(19)
    part = CholeskyFactor(matrix.clone(), SHIFT).leading(lead)
    right = right_side(lead)
    assert part.shift == SHIFT
    torch.testing.assert_close(
        part.lower.tril(), torch.linalg.cholesky(shifted(matrix)[:lead, :lead])
    )
    torch.testing.assert_close(shifted(matrix)[:lead, :lead] @ part.solve(right), right)


@pytest.mark.parametrize("lead", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 1, 18, 19])
def test_rows_below_the_leading_block_multiply_without_the_matrix(lead):
    matrix, right = covariance(19), right_side(lead)
    factor = CholeskyFactor(matrix.clone(), SHIFT)
    product = factor.trailing_product(right)
    assert product.shape == (19 - lead, 3)
    torch.testing.assert_close(product, matrix[lead:, :lead] @ right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_positive_definite_is_refused(dtype):
    matrix = covariance(11).to(dtype)
    matrix[7, 7] = -3.0
    with pytest.raises(SettingError, match=f"not positive definite in {dtype}; choose a larger"):
        CholeskyFactor(matrix, 1e-3)


def test_float32_factors_solve_to_float32_accuracy():
    matrix, right = covariance(43), right_side(43)
    found = CholeskyFactor(matrix.float(), 1.0).solve(right.float())
    expected = torch.linalg.solve(shifted(matrix, 1.0), right)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


# A path of shifts

MIDDLE = 0.1
SHIFTS = [MIDDLE * 10.0**i for i in (-2, -1.5, -1, 0, 0.5, 1, 2)]


@pytest.mark.parametrize(("size", "rank"), [(1, 1), (6, 6), (35, 35), (35, 8), (60, 200)])
def test_one_factor_solves_four_decades_of_shifts(size, rank):
    matrix, right = covariance(size, rank), right_side(size)
    factor = CholeskyFactor(matrix.clone(), MIDDLE)
    solutions, residuals = shifted_solutions(factor, right, SHIFTS, tolerance=1e-9)
    assert solutions.shape == (len(SHIFTS), size, 3)
    assert residuals.shape == (len(SHIFTS), 3)
    for shift, found in zip(SHIFTS, solutions, strict=True):
        expected = torch.linalg.solve(shifted(matrix, shift), right)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_the_residual_is_known_without_forming_it(tolerance):
    matrix, right = covariance(60), right_side(60)
    factor = CholeskyFactor(matrix.clone(), MIDDLE)
    solutions, residuals = shifted_solutions(factor, right, SHIFTS, tolerance=tolerance)
    true = torch.stack(
        [
            (shifted(matrix, shift) @ found - right).norm(dim=0) / right.norm(dim=0)
            for shift, found in zip(SHIFTS, solutions, strict=True)
        ]
    )
    assert true.max() <= tolerance * (1 + 1e-6)
    np.testing.assert_allclose(residuals, true, rtol=1e-6, atol=1e-12)


def test_iterations_end_at_their_limit_and_the_residual_says_so():
    matrix, right = covariance(60), right_side(60)
    factor = CholeskyFactor(matrix.clone(), MIDDLE)
    solutions, residuals = shifted_solutions(
        factor, right, SHIFTS, tolerance=1e-12, max_iterations=3
    )
    assert residuals.max() > 1e-6
    true = (shifted(matrix, SHIFTS[0]) @ solutions[0] - right).norm(dim=0) / right.norm(dim=0)
    np.testing.assert_allclose(residuals[0], true, rtol=1e-6)


def test_the_factors_own_shift_needs_one_step():
    matrix, right = covariance(20), right_side(20)
    factor = CholeskyFactor(matrix.clone(), MIDDLE)
    solutions, residuals = shifted_solutions(factor, right, [MIDDLE], max_iterations=1)
    assert not residuals.any()
    torch.testing.assert_close(solutions[0], factor.solve(right))


def test_a_zero_column_stays_zero_beside_others():
    matrix, right = covariance(20), right_side(20)
    right[:, 1] = 0
    factor = CholeskyFactor(matrix.clone(), MIDDLE)
    solutions, residuals = shifted_solutions(factor, right, SHIFTS, tolerance=1e-9)
    assert torch.isfinite(solutions).all()
    assert not solutions[:, :, 1].any()
    assert not residuals[:, 1].any()
    expected = torch.linalg.solve(shifted(matrix, SHIFTS[1]), right)
    torch.testing.assert_close(solutions[1], expected, rtol=1e-6, atol=1e-7)


def test_an_eigenvector_beside_a_full_column_does_not_break_down():
    """A column whose Krylov space ends early goes on as noise that must stay harmless."""
    matrix, right = covariance(20), right_side(20)
    right[:, 0] = torch.linalg.eigh(matrix).eigenvectors[:, 4]
    solutions, _ = shifted_solutions(
        CholeskyFactor(matrix.clone(), MIDDLE), right, SHIFTS, tolerance=1e-9
    )
    for shift, found in zip(SHIFTS, solutions, strict=True):
        expected = torch.linalg.solve(shifted(matrix, shift), right)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
