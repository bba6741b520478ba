"""What every solver returns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.solvers.optimum import Status

Callback = Callable[[dict[str, Any]], None]
"""Receives one JSON-able event per logged step or finished phase."""

MARGIN = 0.5
"""Standard errors by which the accuracy of a beta may fall short of the best one's."""

SAME_LOSS = 1.01
"""Losses whose ratio is smaller count as the same."""


@dataclass
class PathPoint:
    """One beta of a path: its training objective's loss and what it does on held-out images."""

    beta: float
    train: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"beta": self.beta, "train": self.train, "validation": self.validation}


@dataclass
class Solution:
    """The minimiser that a solver found.

    Args:
        weights: V, (k, n_features); V and W, (2, k, n_features), for (R).
        bias: b, (k,).
        beta: weight of the regulariser it was solved for.
        solver: name of the solver.
        relative_gap: relative duality gap, as the solver saw it; NaN if it saw none.
        path: the betas that were tried; empty if there was one.
        seconds: time by phase.
        held_out_scores: scores (n_validation, k) of the held-out images before they were added
            to the training images; None without validation.
        status: how the solver ended.
        history: one dictionary per iteration of the last beta; see :class:`Optimum`.
        reason: why this solver was chosen; empty if it was asked for.

    Raises:
        SettingError: weights or bias are not finite.
    """

    weights: Tensor
    bias: Tensor
    beta: float
    solver: str
    relative_gap: float
    path: list[PathPoint] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    held_out_scores: Tensor | None = None
    status: Status = Status.OPTIMAL
    history: list[dict[str, float]] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        if not bool(self.weights.isfinite().all() and self.bias.isfinite().all()):
            raise SettingError(
                f"solver {self.solver} found no finite weights at beta {self.beta:.3g}; choose "
                "another beta or solver"
            )


def best_point(path: Sequence[PathPoint], held_out: int) -> PathPoint:
    """The point of the smallest validation loss among those that are as accurate as the best.

    As accurate means within half the standard error of the best accuracy a on so many images,
    sqrt(a (1 - a) / n) / 2: neighbours on a path err on much the same images, so that their
    difference is less uncertain than either of them. Losses that differ by a hundredth are the
    same; then accuracy decides.

    Args:
        path: points with ``loss`` and ``accuracy`` of the same held-out images.
        held_out: number of these, n.

    Returns:
        The point; the largest beta of several that tie.
    """
    accuracy = max(point.validation["accuracy"] for point in path)
    least = accuracy - MARGIN * math.sqrt(accuracy * (1 - accuracy) / held_out)
    near = [point for point in path if point.validation["accuracy"] >= least]
    smallest = min(point.validation["loss"] for point in near)
    most = max(smallest, SAME_LOSS * smallest)  # rounding can take it below zero
    near = [point for point in near if point.validation["loss"] <= most]
    return max(near, key=lambda point: (point.validation["accuracy"], point.beta))


class PhaseClock:
    """Seconds by phase, told to the callback as each phase ends."""

    def __init__(self, callback: Callback | None) -> None:
        self.seconds: dict[str, float] = {}
        self._callback = callback
        self._last = self._start = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End the phase that began with the last call."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now
        self.tell({"phase": phase, "step": len(self.seconds), "steps": None})

    def tell(self, event: dict[str, Any]) -> None:
        """Pass an event on to the callback, with the seconds since the clock was made."""
        if self._callback is not None:
            self._callback({**event, "seconds": time.perf_counter() - self._start})
