"""Newton's method on the weights of the groups: squared loss with the group norm, to the end.

minimise (1/2n) |Phi V + 1 b' - Y|^2 + beta sum |v_ic|  is, class by class, the minimum over
eta >= 0 of a smooth convex function of one number per gate (:mod:`.kernel_sides`). Its Hessian
costs no more than its value, so a few Newton steps reach any accuracy (Chapelle & Rakotomamonjy
2008), where first-order methods need thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.kernel_sides import Measure, Side, choose_side
from convexcnn.solvers.linear_algebra.bounded_quadratic import bounded_minimum
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.warm_path import InMemorySolver

SMALLEST_STEP = 1e-4
ROUNDING = 1e-12
"""Relative growth of J that may be rounding: the gap still shrinks where J shows nothing more."""


@dataclass(frozen=True)
class MultipleKernel(InMemorySolver):
    """Group lasso by Newton's method on kernel weights.

    Args:
        tolerance: relative duality gap.
        max_iterations: Newton steps per class.
    """

    tolerance: float = 1e-6
    max_iterations: int = 60

    name = "multiple-kernel"

    def handles(self, kind: ProgramKind) -> bool:
        return (kind.formulation, kind.loss, kind.regulariser) == ("gated", "squared", "group")

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve (G) with squared loss and the group norm, class by class.

        The history runs over classes one after the other, in sums; its last row is the whole
        program.
        """
        self.check(program.kind)
        side = choose_side(program)
        beta = len(program.targets) * program.beta
        history = History(self.tolerance)
        weights = torch.zeros(program.shape, dtype=torch.float64)
        statuses = []
        primal = dual = 0.0
        for column in range(len(weights)):
            eta = None if start is None else start.weights[column].double().norm(dim=-1).flatten()
            eta, measure, status = self._solve_class(side, beta, column, eta, history)
            weights[column] = (eta[:, None] * measure.pulled / beta).view(program.shape[1:])
            statuses.append(status)
            primal += history.rows[-1]["primal"]
            dual += history.rows[-1]["dual"]
        history.add(primal / len(program.targets), dual / len(program.targets))
        bias = torch.zeros(len(weights), dtype=torch.float64)
        if program.intercept:
            bias = (program.targets - program.scores(weights, bias)).mean(0)
        status = next((s for s in statuses if s is not Status.OPTIMAL), Status.OPTIMAL)
        return Optimum(weights, bias, status, history.rows)

    def _solve_class(
        self, side: Side, beta: float, column: int, eta: Tensor | None, history: History
    ) -> tuple[Tensor, Measure, Status]:
        if eta is None:
            eta = _balanced_start(side, beta, column)
        measure = side.measure(eta, beta, column)
        for _ in range(self.max_iterations):
            if history.add(*_bounds(eta, measure, beta)):
                return eta, measure, Status.OPTIMAL
            moved = _secular_step(side, eta, measure, beta, column)
            if moved is None:
                moved = _descent_step(side, eta, measure, beta, column)
            if moved is None:
                return eta, measure, Status.STALLED
            eta, measure = moved
        return eta, measure, Status.ITERATION_LIMIT


def _balanced_start(side: Side, beta: float, column: int) -> Tensor:
    """Equal weights, then one fixed-point step eta <- |v|, which finds the scale at once."""
    scale = 10 * beta / max(side.mean_square, 1e-300)
    eta = torch.full((side.groups,), scale, dtype=torch.float64)
    norms: Tensor = side.measure(eta, beta, column).pulled.norm(dim=1)
    return eta * norms / beta


def _bounds(eta: Tensor, measure: Measure, beta: float) -> tuple[float, float]:
    """Objective of v = (eta / beta) Phi' L, and the bound of the best multiple of L."""
    norms = measure.pulled.norm(dim=1)
    primal = 0.5 * measure.square + float(eta @ norms)
    largest = float(norms.max())
    scale = measure.inner / measure.square if measure.square else 0.0
    if largest:
        scale = min(scale, beta / largest)
    return primal, scale * measure.inner - 0.5 * scale**2 * measure.square


def _secular_step(
    side: Side, eta: Tensor, measure: Measure, beta: float, column: int
) -> tuple[Tensor, Measure] | None:
    """Newton's step for 1 / |Phi_i' L| = 1 / beta; None where it does not lower J.

    These equations hold at the optimum wherever eta > 0, as J' = (beta^2 - |Phi_i' L|^2) / 2 beta
    = 0 does, but they are nearly linear in eta. The step is that of Newton's method on J with
    r^2 (r - 1) beta for -J', r = |Phi_i' L| / beta (secular equations: More & Sorensen 1983).
    """
    ratio = measure.pulled.norm(dim=1) / beta
    target = _model_minimum(eta, measure, beta * ratio.square() * (1 - ratio))
    ahead = side.measure(target, beta, column)
    return (target, ahead) if ahead.value <= measure.value * (1 + ROUNDING) else None


def _descent_step(
    side: Side, eta: Tensor, measure: Measure, beta: float, column: int
) -> tuple[Tensor, Measure] | None:
    """Newton's step for J' = 0, halved until it lowers J; None if rounding leaves none."""
    gradient = 0.5 * beta - measure.pulled.square().sum(1) / (2 * beta)
    target, step = _model_minimum(eta, measure, gradient), 1.0
    while step >= SMALLEST_STEP:
        trial = eta + step * (target - eta)
        ahead = side.measure(trial, beta, column)
        if ahead.value <= measure.value:
            return trial, ahead
        step /= 2
    return None


def _model_minimum(eta: Tensor, measure: Measure, gradient: Tensor) -> Tensor:
    """The minimiser over eta >= 0 of the quadratic with this gradient and the Hessian of J."""
    hessian = measure.hessian()
    diagonal = hessian.diagonal()
    diagonal += 1e-12 * diagonal.max() + 1e-300
    free = (eta > 0) | (gradient < 0)
    return bounded_minimum(hessian, gradient - hessian @ eta, free)
