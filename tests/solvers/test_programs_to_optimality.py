"""Every combination of program is solved to its optimum: certified, and equal to clarabel's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from convexcnn.certificates.certify import ConeCertificate, certify
from convexcnn.errors import SettingError
from convexcnn.programs.program import Program
from convexcnn.solvers.cone_columns import ConeColumns
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.kernel_sides import DenseKernelSide, GramSide, MaskedKernelSide, Side
from convexcnn.solvers.lbfgs import LBFGS
from convexcnn.solvers.linear_algebra.bounded_quadratic import bounded_minimum
from convexcnn.solvers.multiple_kernel import MultipleKernel
from convexcnn.solvers.optimum import Status
from cvxpy_oracle import oracle_optimum, tiny_program

LOSSES = ("squared", "cross_entropy")
PROGRAMS = [
    *itertools.product(["gated"], ["l2", "group", "nuclear"], LOSSES, [1, 4], [True, False]),
    *itertools.product(["relu"], ["l2", "group"], LOSSES, [1, 4], [True, False]),
]
TIGHT = 1e-7


def solvers_for(program: Program) -> list[Any]:
    """Every solver that takes this program."""
    found: list[Any] = []
    if program.regulariser != "nuclear":
        found.append(InteriorPoint(TIGHT))
    if program.formulation == "relu":
        found.append(ConeColumns(TIGHT))
    else:
        found.append(Fista(TIGHT, 50000))
        if program.regulariser == "l2":
            found.append(LBFGS(TIGHT))
        if program.loss == "squared" and program.regulariser == "group":
            found.append(MultipleKernel(TIGHT))
    return found


CASES = [
    pytest.param(choice, solver, id=f"{solver.name}-{'-'.join(map(str, choice))}")
    for choice in PROGRAMS
    for solver in solvers_for(tiny_program(*choice[:3], cells=choice[3], intercept=choice[4]))
]


@pytest.mark.parametrize(("choice", "solver"), CASES)
def test_optimum_is_certified(choice: tuple[Any, ...], solver: Any) -> None:
    program = tiny_program(*choice[:3], cells=choice[3], intercept=choice[4])
    optimum = solver.solve(program)
    assert optimum.status is Status.OPTIMAL
    bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
    assert -1e-12 <= bound.relative_gap <= 1e-6
    if not program.intercept:
        assert not optimum.bias.any()
    if isinstance(bound, ConeCertificate):
        assert bound.violation <= 1e-15  # rounding
    if solver.name != "multiple-kernel":  # whose history is class by class
        # What the solver saw is what the independent code sees.
        assert optimum.history[-1]["primal"] == pytest.approx(bound.primal, rel=1e-9)


@pytest.mark.parametrize("choice", PROGRAMS, ids=lambda c: "-".join(map(str, c)))
def test_optimum_equals_an_interior_point_oracle(choice: tuple[Any, ...]) -> None:
    program = tiny_program(*choice[:3], cells=choice[3], intercept=choice[4])
    expected = oracle_optimum(program)
    for solver in solvers_for(program):
        optimum = solver.solve(program)
        weights, bias = optimum.weights, optimum.bias
        assert program.objective(weights, bias) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("side", [GramSide, DenseKernelSide, MaskedKernelSide])
@pytest.mark.parametrize("intercept", [True, False])
def test_all_sides_measure_the_same_function(side: type[Side], intercept: bool) -> None:
    program = tiny_program(cells=4, intercept=intercept)
    program = replace(program, patches=program.patches[:, :, :1])  # one patch per cell
    beta, eta = 0.4, torch.linspace(0, 1, 12, dtype=torch.float64)
    got = side(program).measure(eta, beta, 1)
    # The definition: ridge regression with weights beta / eta, on centred data.
    phi, y = program.features, program.targets[:, 1]
    if intercept:
        phi, y = phi - phi.mean(0), y - y.mean()
    scaled = phi * eta.sqrt().repeat_interleave(3)
    system = scaled.T @ scaled + beta * torch.eye(36, dtype=torch.float64)
    residual = y - scaled @ torch.linalg.solve(system, scaled.T @ y)
    expected = 0.5 * residual @ y + 0.5 * beta * eta.sum()
    assert got.value == pytest.approx(float(expected), rel=1e-12)
    assert got.square == pytest.approx(float(residual @ residual), rel=1e-10)
    assert got.inner == pytest.approx(float(residual @ y), rel=1e-10)
    torch.testing.assert_close(got.pulled, (residual @ phi).view(12, 3))

    def gradient(at: torch.Tensor) -> torch.Tensor:
        pulled = side(program).measure(at, beta, 1).pulled
        return 0.5 * beta - pulled.square().sum(1) / (2 * beta)

    step = 1e-6 * torch.arange(1, 13, dtype=torch.float64)
    change = gradient(eta + step) - gradient(eta)
    torch.testing.assert_close(got.hessian() @ step, change, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("side", [DenseKernelSide, MaskedKernelSide])
def test_kernels_beyond_float32_are_factorised_in_float64(side: type[Side]) -> None:
    program = tiny_program(cells=4)
    program = replace(program, patches=program.patches[:, :, :1])
    beta, eta = 1e-9, torch.ones(12, dtype=torch.float64)
    got = side(program).measure(eta, beta, 0)
    phi, y = program.features - program.features.mean(0), program.targets[:, 0]
    y = y - y.mean()
    kernel = phi @ phi.T / beta + torch.eye(len(y), dtype=torch.float64)
    assert torch.linalg.cond(kernel) > 1e8
    expected = torch.linalg.solve(kernel, y)
    assert got.square == pytest.approx(float(expected @ expected), rel=1e-5)


def test_programs_of_more_features_than_images_reach_tight_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(40, 1, 1, 6, generator=generator, dtype=torch.float64)
    gates = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    for beta in (1e-3, 0.1):
        program = Program(patches, gates, targets, beta)
        optimum = MultipleKernel(1e-10).solve(program)
        bound = certify(program, optimum.weights, optimum.bias)
        assert optimum.status is Status.OPTIMAL
        assert bound.relative_gap <= 1e-9


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beta", [1e-5, 1e-3, 0.1])
def test_rounding_does_not_stall_kernel_weights(seed: int, beta: float) -> None:
    """Many more features than rank, gates that repeat, and starts at a near-by optimum."""
    generator = torch.Generator().manual_seed(seed)
    n, gates = 20 + 40 * (seed % 2), 20
    patches = torch.randn(n, 1, 1 + seed % 3, 8, generator=generator, dtype=torch.float64)
    directions = torch.randn(gates, 8, generator=generator, dtype=torch.float64)
    directions[1] = directions[0]
    targets = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    program = Program(patches, directions, targets, beta, intercept=bool(seed % 4))
    optimum = MultipleKernel(1e-8).solve(program)
    assert optimum.status is Status.OPTIMAL
    next_one = MultipleKernel(1e-8).solve(program.at(beta / 2), optimum)
    assert next_one.status is Status.OPTIMAL


@pytest.mark.parametrize("seed", range(20))
def test_bounded_quadratic_meets_its_optimality_conditions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 1e-3 * torch.eye(9, dtype=torch.float64)
    linear = torch.randn(9, generator=generator, dtype=torch.float64)
    x = bounded_minimum(matrix, linear, linear < 0)
    slope = matrix @ x + linear
    assert (x >= 0).all()
    assert slope.min() > -1e-9
    assert float((x * slope).abs().max()) < 1e-9


def test_a_heavy_regulariser_leaves_no_neuron() -> None:
    program = tiny_program(beta=100.0)
    for solver in (MultipleKernel(), InteriorPoint(1e-8), Fista(1e-10)):
        optimum = solver.solve(program)
        assert optimum.weights.norm(dim=-1).max() < 1e-6
        torch.testing.assert_close(optimum.bias, program.targets.mean(0), rtol=1e-3, atol=1e-4)


def test_solvers_refuse_what_they_cannot_do_and_name_what_can() -> None:
    with pytest.raises(SettingError, match="interior-point"):
        Fista().solve(tiny_program("relu"))
    with pytest.raises(SettingError, match="fista"):
        InteriorPoint().solve(tiny_program(regulariser="nuclear"))
    with pytest.raises(SettingError, match="multiple-kernel"):
        ConeColumns().solve(tiny_program())
    with pytest.raises(SettingError, match="fista"):
        MultipleKernel().solve(tiny_program(loss="cross_entropy"))


def test_a_limit_on_iterations_is_reported() -> None:
    assert Fista(1e-9, 3).solve(tiny_program()).status is Status.ITERATION_LIMIT
    assert InteriorPoint(1e-9, 3).solve(tiny_program()).status is Status.ITERATION_LIMIT
    assert MultipleKernel(1e-9, 1).solve(tiny_program()).status is Status.ITERATION_LIMIT
