"""Solvers by name: the one list that estimators, commands and documentation read."""

from __future__ import annotations

from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.admm import ADMM
from convexcnn.solvers.burer_monteiro import BurerMonteiro
from convexcnn.solvers.cone_columns import ConeColumns
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.kernel import Kernel
from convexcnn.solvers.lbfgs import LBFGS
from convexcnn.solvers.matrix_free import MatrixFree
from convexcnn.solvers.multiple_kernel import MultipleKernel
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.warm_path import BetaSolver

BETA_SOLVERS: dict[str, type[BetaSolver]] = {
    solver.name: solver
    for solver in (MultipleKernel, InteriorPoint, LBFGS, ADMM, Fista, BurerMonteiro, ConeColumns)
}
"""Solvers of one beta at a time, by name; every one takes ``tolerance``."""

RIDGE_SOLVERS: dict[str, type[PathSolver]] = {
    "direct": Direct,
    "kernel": Kernel,
    "cg": MatrixFree,
}
"""Solvers of a whole path of ridge regressions, by name; each has a ``needed_gb`` beside it."""


def solvers_for(kind: ProgramKind, *, shared: bool = False) -> list[str]:
    """Names of the solvers that handle a kind of program.

    Args:
        kind: of the program.
        shared: whether several processes are to share its images.
    """
    ridge = RIDGE_SOLVERS.items() if kind.is_ridge else ()
    able: list[tuple[str, type[PathSolver] | type[BetaSolver]]] = [*ridge]
    able += [(name, solver) for name, solver in BETA_SOLVERS.items() if solver().handles(kind)]
    return [name for name, solver in able if solver.shares_images or not shared]


def beta_solver(name: str, tolerance: float, memory_gb: float) -> BetaSolver:
    """Return the solver of that name, to a relative duality gap, within a memory budget."""
    for solver in (ADMM, Fista):
        if name == solver.name:
            return solver(tolerance, memory_gb=memory_gb)
    return BETA_SOLVERS[name](tolerance=tolerance)  # type: ignore[call-arg]
