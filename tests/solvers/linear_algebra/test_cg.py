"""Conjugate gradients: every column solved, in as few products as the preconditioner allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convexcnn.solvers.linear_algebra.cg import ShiftedSystems, conjugate_gradients
from small import generator

SIZE, COLUMNS = 30, 4


def spd(condition: float = 1e3) -> Tensor:
    """A symmetric positive definite matrix with a known condition number, float64."""
    draw = torch.randn(SIZE, SIZE, generator=generator(), dtype=torch.float64)
    basis = torch.linalg.qr(draw).Q
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), SIZE, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T


MATRIX = spd()
RIGHT = torch.randn(SIZE, COLUMNS, generator=generator(1), dtype=torch.float64)


def nothing(residual: Tensor) -> Tensor:
    return residual.clone()


def exactly(residual: Tensor) -> Tensor:
    return torch.linalg.solve(MATRIX, residual)


def roughly(residual: Tensor) -> Tensor:
    return torch.linalg.solve(MATRIX + 0.05 * torch.eye(SIZE, dtype=torch.float64), residual)


def solve(precondition=nothing, right=RIGHT, **kwargs):
    return conjugate_gradients(lambda x: MATRIX @ x, right, precondition, **kwargs)


@pytest.mark.parametrize("precondition", [nothing, roughly, exactly])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-10])
def test_every_column_reaches_the_tolerance(precondition, tolerance):
    found, residual, _ = solve(precondition, tolerance=tolerance)
    true = (MATRIX @ found - RIGHT).norm(dim=0) / RIGHT.norm(dim=0)
    assert residual <= tolerance
    assert float(true.max()) == pytest.approx(residual, rel=1e-2, abs=1e-12)


def test_better_preconditioners_need_fewer_iterations():
    counts = [solve(p, tolerance=1e-8)[2] for p in (nothing, roughly, exactly)]
    assert counts[0] > counts[1] > counts[2] == 1


def test_a_good_start_leaves_nothing_to_do():
    start = torch.linalg.solve(MATRIX, RIGHT)
    before = start.clone()
    found, residual, iterations = solve(start=start)
    assert iterations == 0
    assert residual < 1e-10
    assert torch.equal(found, start)
    assert found is not start
    noisy = start + 1e-3
    assert solve(roughly, start=noisy)[2] < solve(roughly)[2]
    assert torch.equal(start, before)


def test_iterations_end_at_their_limit_and_the_residual_says_so():
    found, residual, iterations = solve(tolerance=1e-14, max_iterations=3)
    assert iterations == 3
    true = (MATRIX @ found - RIGHT).norm(dim=0) / RIGHT.norm(dim=0)
    assert residual == pytest.approx(float(true.max()), rel=1e-8)


def test_products_are_made_with_all_columns_together():
    shapes = []

    def product(x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return MATRIX @ x

    _, _, iterations = conjugate_gradients(product, RIGHT, roughly)
    assert shapes == [(SIZE, COLUMNS)] * iterations


def test_a_zero_column_stays_zero_beside_others():
    right = RIGHT.clone()
    right[:, 2] = 0
    found, residual, _ = solve(roughly, right, tolerance=1e-9)
    assert residual <= 1e-9
    assert torch.isfinite(found).all()
    assert not found[:, 2].any()


def test_the_right_side_is_left_alone():
    right = RIGHT.clone()
    solve(roughly, right)
    assert torch.equal(right, RIGHT)


SHIFTS = [0.3, 1e-4, 0.01]


def shifted_systems(precondition=None, product=lambda x: MATRIX @ x) -> ShiftedSystems:
    plain = precondition or (lambda residual, shifts: residual.clone())
    return ShiftedSystems(product, plain, RIGHT, SHIFTS)


def below(tolerance: float):
    return lambda index, solution, residual: bool(residual.norm() <= tolerance * RIGHT.norm())


def test_every_shift_is_solved():
    solutions, _ = shifted_systems().solve(below(1e-10), 200)
    for shift, solution in zip(SHIFTS, solutions, strict=True):
        system = MATRIX + shift * torch.eye(SIZE, dtype=torch.float64)
        torch.testing.assert_close(solution, torch.linalg.solve(system, RIGHT))


def test_finished_shifts_leave_the_products():
    widths = []

    def product(x: Tensor) -> Tensor:
        widths.append(x.shape[1])
        return MATRIX @ x

    _, products = shifted_systems(product=product).solve(below(1e-8), 200)
    assert products == len(widths)
    assert widths[0] == 3 * COLUMNS
    assert widths[-1] == COLUMNS
    assert widths == sorted(widths, reverse=True)


def test_every_shift_is_preconditioned_at_its_own_value():
    def exact(residual: Tensor, shifts: Tensor) -> Tensor:
        eye = torch.eye(SIZE, dtype=torch.float64)
        columns = zip(residual.T, shifts, strict=True)
        return torch.stack([torch.linalg.solve(MATRIX + s * eye, r) for r, s in columns], 1)

    assert shifted_systems(exact).solve(below(1e-9), 200)[1] == 1


def test_shifted_systems_end_at_their_limit_with_what_they_have():
    seen = []

    def never(index: int, solution: Tensor, residual: Tensor) -> bool:
        seen.append((index, solution.clone(), residual.clone()))
        return False

    solutions, products = shifted_systems().solve(never, 4)
    assert products == 4
    for index, solution, residual in seen[-3:]:
        torch.testing.assert_close(solutions[index], solution)
        true = RIGHT - MATRIX @ solution - SHIFTS[index] * solution
        torch.testing.assert_close(residual, true)


def test_what_is_enough_at_once_needs_no_product():
    solutions, products = shifted_systems().solve(lambda *_: True, 10)
    assert products == 0
    assert not solutions.any()


def test_a_start_costs_one_product_and_is_gone_on_from():
    eye = torch.eye(SIZE, dtype=torch.float64)
    exact = torch.stack([torch.linalg.solve(MATRIX + s * eye, RIGHT) for s in SHIFTS], 1)
    start = exact + 1e-3
    kept = start.clone()
    solutions, products = shifted_systems().solve(below(1e-3), 200, start)
    assert torch.equal(start, kept)
    assert products < shifted_systems().solve(below(1e-3), 200)[1]
    for shift, solution in zip(SHIFTS, solutions, strict=True):
        true = RIGHT - MATRIX @ solution - shift * solution
        assert true.norm() <= 1.001e-3 * RIGHT.norm()
    solutions, products = shifted_systems().solve(below(1e-9), 1, start)
    assert products == 1
    torch.testing.assert_close(solutions, start.transpose(0, 1))
