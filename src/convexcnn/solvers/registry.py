"""Solvers by name: the one list that estimators, commands and documentation read."""

from __future__ import annotations

from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.cone_columns import ConeColumns
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.multiple_kernel import MultipleKernel
from convexcnn.solvers.warm_path import BetaSolver

BETA_SOLVERS: dict[str, type[BetaSolver]] = {
    solver.name: solver for solver in (MultipleKernel, InteriorPoint, Fista, ConeColumns)
}
"""Solvers of one beta at a time, by name; every one takes ``tolerance``."""

RIDGE_SOLVERS = ("direct", "kernel")
"""Solvers of a whole path of ridge regressions."""


def solvers_for(kind: ProgramKind) -> list[str]:
    """Names of the exact solvers that handle a kind of program."""
    ridge = list(RIDGE_SOLVERS) if kind.is_ridge else []
    return ridge + [name for name, solver in BETA_SOLVERS.items() if solver().handles(kind)]
