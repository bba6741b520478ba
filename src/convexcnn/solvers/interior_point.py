"""A primal-dual interior-point method for (G) and (R), to any accuracy, in 10 to 20 iterations.

The programs and their cones: :mod:`.interior.conic_program`. Newton's directions with
Nesterov-Todd scaling (:mod:`.interior.newton_direction`) cost one batch of d x d factorisations
and one of the size of the scores (:mod:`.interior.block_system`), and several centrality
corrections share them. Factorisations are in float32 for as long as directions can be corrected
to what the gap needs, then in float64. Cones are open and a filter starts in the middle of its
own, so every iterate is strictly feasible: the network it gives is a ReLU network, with no
violation at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.float32 import fast_float32
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.interior.conic_program import ConicProgram, Point
from convexcnn.solvers.interior.newton_direction import Newton, merit
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.warm_path import InMemorySolver

TO_BOUNDARY = 0.995
CENTRING, CAUTIOUS, SHORT = 0.15, 0.5, 0.3
"""A step aims at products of pairs times the first, or the second after a step below the third."""
CORRECTORS, LONG, WORTH = 8, 0.9, 1.02
"""At most so many centrality corrections, until the step is long or grows by less than WORTH."""
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
"""Parts of a correction to try."""
INEXACT = 0.05
"""Residual that a direction may leave, relative to beta and the relative gap."""
HALVINGS = 8


@dataclass(frozen=True)
class InteriorPoint(InMemorySolver):
    """Newton's method along the central path, for all of Phi in memory.

    Args:
        tolerance: relative duality gap.
        max_iterations: at most this many.
    """

    tolerance: float = 1e-6
    max_iterations: int = 80

    name = "interior-point"

    def handles(self, kind: ProgramKind) -> bool:
        return kind.regulariser != "nuclear"

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve (G) or (R) with `l2` or the group norm, and any loss.

        It always begins well inside the cones: an optimum lies on their boundary, where an
        interior-point method cannot start.
        """
        self.check(program.kind)
        problem = ConicProgram(program)
        history = History(self.tolerance)
        point, status = problem.start(), Status.ITERATION_LIMIT
        steps = _Steps(problem)
        with fast_float32():
            for _ in range(self.max_iterations):
                scores = problem.scores(point)
                if history.add(*problem.bounds(point, scores)):
                    status = Status.OPTIMAL
                    break
                moved = steps.next(point, scores, history.rows[-1]["relative_gap"])
                if moved is None:
                    status = Status.STALLED
                    break
                point = moved
        shape = program.shape if problem.signs == 1 else (2, *program.shape)
        multipliers = point.multipliers / len(program.targets) if problem.rows else None
        return Optimum(point.weights.reshape(shape), point.bias, status, history.rows, multipliers)


class _Steps:
    """Steps along the central path, which remember whether float32 was enough."""

    def __init__(self, problem: ConicProgram) -> None:
        self.problem = problem
        self.rounded = True
        self.last = 1.0

    def next(self, point: Point, scores: Tensor, gap: float) -> Point | None:
        """The point after one step; None if rounding leaves none."""
        limit = INEXACT * abs(gap) * self.problem.beta
        for rounded in [True, False] if self.rounded else [False]:
            self.rounded = rounded
            try:
                newton = Newton(self.problem, point, scores, rounded=rounded)
            except (SettingError, RuntimeError):  # a factorisation failed
                continue
            direction = self._direction(newton, limit)
            if direction is None:
                continue
            moved = self._move(newton, direction)
            if moved is not None:
                return moved
        return None

    def _direction(self, newton: Newton, limit: float) -> Point | None:
        """A centred direction with the corrections that lengthen its step."""
        point = newton.point
        mean = point.complementarity()
        target = mean * (CENTRING if self.last > SHORT else CAUTIOUS)
        direction = newton.direction(target)
        if not mean:
            return newton.polished(direction, limit)
        step = min(1.0, point.longest_step(direction))
        for _ in range(CORRECTORS):
            if step > LONG:
                break
            correction = newton.correction(direction, target)
            steps = [min(1.0, s) for s in point.longest_steps(direction, correction, WEIGHTS)]
            if max(steps) < WORTH * step:
                break
            step = max(steps)
            direction = direction.moved(WEIGHTS[steps.index(step)], correction)
        return newton.polished(direction, limit)

    def _move(self, newton: Newton, direction: Point) -> Point | None:
        problem, point = self.problem, newton.point
        step = min(1.0, TO_BOUNDARY * point.longest_step(direction))
        self.last = step
        if problem.program.loss == "squared":
            return point.moved(step, direction) if step > 1e-8 else None
        before = newton.merit(point.complementarity())
        for _ in range(HALVINGS):
            trial = point.moved(step, direction)
            residual = problem.residual(trial, problem.scores(trial))
            ahead = merit(residual, trial.complementarity(), problem.beta)
            if ahead <= (1 - 0.01 * step) * before:
                return trial
            step /= 2
        return None
