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
from convexcnn.solvers.bounded_quadratic import bounded_minimum
from convexcnn.solvers.kernel_sides import Measure, Side, choose_side
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.warm_path import InMemorySolver

SCALING_STEPS = 2
SMALLEST_STEP = 1e-4


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
            target = _newton_target(eta, measure, beta)
            step = 1.0
            while True:
                trial = eta + step * (target - eta)
                trial_measure = side.measure(trial, beta, column)
                if trial_measure.value <= measure.value or step < SMALLEST_STEP:
                    break
                step /= 2
            if step < SMALLEST_STEP:
                return eta, measure, Status.STALLED
            eta, measure = trial, trial_measure
        return eta, measure, Status.ITERATION_LIMIT


def _balanced_start(side: Side, beta: float, column: int) -> Tensor:
    """Equal weights, then fixed-point steps eta <- |v|, which find the scale at once."""
    scale = 10 * beta / max(side.mean_square, 1e-300)
    eta = torch.full((side.groups,), scale, dtype=torch.float64)
    for _ in range(SCALING_STEPS):
        measure = side.measure(eta, beta, column)
        eta = eta * measure.pulled.norm(dim=1) / beta
    return eta


def _bounds(eta: Tensor, measure: Measure, beta: float) -> tuple[float, float]:
    """Objective of v = (eta / beta) Phi' L, and the bound of the best multiple of L."""
    norms = measure.pulled.norm(dim=1)
    primal = 0.5 * measure.square + float(eta @ norms)
    largest = float(norms.max())
    scale = measure.inner / measure.square if measure.square else 0.0
    if largest:
        scale = min(scale, beta / largest)
    return primal, scale * measure.inner - 0.5 * scale**2 * measure.square


def _newton_target(eta: Tensor, measure: Measure, beta: float) -> Tensor:
    """The minimiser over eta >= 0 of the quadratic model of J."""
    gradient = 0.5 * beta - measure.pulled.square().sum(1) / (2 * beta)
    hessian = measure.hessian()
    diagonal = hessian.diagonal()
    diagonal += 1e-12 * diagonal.max() + 1e-300
    free = (eta > 0) | (gradient < 0)
    return bounded_minimum(hessian, gradient - hessian @ eta, free)
