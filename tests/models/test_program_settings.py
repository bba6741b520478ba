"""What a tolerance means to each solver, and which are tried for the default number of gates."""

from __future__ import annotations

import pytest

from convexcnn.models.program_settings import ProgramSettings
from convexcnn.solvers.choose import ProblemSize, needed_gb
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.warm_path import WarmPath

SIZE = ProblemSize(rows=200, patches=9, cells=4, gates=4, dim=6, classes=3)


def settings(**changes) -> ProgramSettings:
    plain = {
        "formulation": "gated",
        "regulariser": "l2",
        "loss": "squared",
        "solver": "auto",
        "tolerance": None,
        "betas": None,
        "memory_gb": 1.0,
    }
    return ProgramSettings(**(plain | changes))


@pytest.mark.parametrize("solver", ["direct", "kernel", "cg"])
@pytest.mark.parametrize(("tolerance", "gap"), [(None, 1e-6), (1e-4, 1e-4)])
def test_ridge_solvers_get_the_gap_and_a_smaller_one_by_default(solver, tolerance, gap):
    found, _ = settings(solver=solver, tolerance=tolerance).exact_solver(SIZE)
    assert (found.name, found.tolerance) == (solver, gap)


@pytest.mark.parametrize(("tolerance", "gap"), [(None, 1e-3), (1e-7, 1e-7)])
def test_solvers_of_one_beta_get_the_gap(tolerance, gap):
    solver, reason = settings(regulariser="group", tolerance=tolerance).exact_solver(SIZE)
    assert isinstance(solver, WarmPath)
    assert solver.tolerance == solver.solver.tolerance == gap
    assert reason


def test_solver_objects_are_taken_as_they_are():
    given = Fista(1e-2)
    solver, reason = settings(solver=given, regulariser="group", betas=[0.1, 1]).exact_solver(SIZE)
    assert isinstance(solver, WarmPath)
    assert solver.solver is given
    assert solver.betas == [0.1, 1.0]
    assert reason == ""


def test_gates_are_as_many_as_one_solver_has_room_for():
    needed = needed_gb("kernel", SIZE, settings().kind)
    tight = settings(memory_gb=needed)
    assert tight.affordable_gates(SIZE) == 4
    assert settings(memory_gb=1e-9).affordable_gates(SIZE) == 1
    assert settings(solver="sgd", memory_gb=1e-9).affordable_gates(SIZE) == 4
