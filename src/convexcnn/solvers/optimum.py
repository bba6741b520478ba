"""What the solvers of programs in memory return."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from convexcnn.programs.multipliers import SparseMultipliers


class Status(Enum):
    """How a solver ended; the value says why it did not converge, and what to try."""

    OPTIMAL = "the relative duality gap is below the tolerance"
    ITERATION_LIMIT = "more iterations are needed: raise max_iterations or the tolerance"
    DESCENDED = "descent has no tolerance"
    STALLED = "rounding stopped progress: raise the tolerance or beta"


@dataclass
class Optimum:
    """The minimiser that a solver found.

    Args:
        weights: V, (k, cells, g, d); V and W, (2, k, cells, g, d), for (R).
        bias: b, (k,).
        status: how the solver ended.
        history: one dictionary per iteration: ``seconds``, ``primal``, ``dual``,
            ``relative_gap``, as the solver saw them.
        multipliers: mu of the cones of (R), (2, k, cells, g, n q) or only those that are not
            zero; None for (G).
    """

    weights: Tensor
    bias: Tensor
    status: Status
    history: list[dict[str, float]] = field(default_factory=list)
    multipliers: Tensor | SparseMultipliers | None = None


ROUNDING = 1e-5
"""Of a relative gap, in float32: one further below zero is none, and no reason to stop."""


class History:
    """The record of a solver's iterations, timed from its making."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def add(self, primal: float, dual: float) -> bool:
        """Record an iteration; whether its relative gap is within the tolerance."""
        gap = (primal - dual) / abs(primal) if primal else 0.0
        seconds = time.perf_counter() - self._start
        self.rows.append({"seconds": seconds, "primal": primal, "dual": dual, "relative_gap": gap})
        return self.solved

    @property
    def solved(self) -> bool:
        """Whether the last iteration's gap is within the tolerance."""
        gap = self.rows[-1]["relative_gap"]
        return -max(ROUNDING, self.tolerance) <= gap <= self.tolerance
