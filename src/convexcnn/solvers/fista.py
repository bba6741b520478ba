"""Accelerated proximal gradients with restart: every regulariser and loss of (G).

minimise (1/n) loss(Phi V + b, Y) + beta R(V)

One product with Phi and one with Phi' per iteration: the gradient at the extrapolated point also
is a dual point, and scores extrapolate like weights (Beck & Teboulle 2009; gradient restart of
O'Donoghue & Candes 2015). b moves like the weight of one more feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.duality import dual_point, dual_value, negative_gradient
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.warm_path import InMemorySolver

POWER_STEPS = 50
SAFETY = 1.02
CURVATURE = {"squared": 1.0, "cross_entropy": 0.5}
"""Largest second derivative of the loss of one image."""


@dataclass(frozen=True)
class Fista(InMemorySolver):
    """Proximal gradient descent with momentum, for all of Phi in memory.

    Args:
        tolerance: relative duality gap.
        max_iterations: at most this many.
    """

    tolerance: float = 1e-4
    max_iterations: int = 20000

    name = "fista"

    def handles(self, kind: ProgramKind) -> bool:
        return kind.formulation == "gated"

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve (G) with any regulariser and loss, from zero by default."""
        self.check(program.kind)
        descent = _Descent(program, start)
        history = History(self.tolerance)
        status = Status.ITERATION_LIMIT
        for _ in range(self.max_iterations):
            if history.add(*descent.bounds()):
                status = Status.OPTIMAL
                break
            descent.step()
        return Optimum(descent.weights, descent.bias, status, history.rows)


class _Descent:
    """The iterate, the extrapolated point, and the best dual value so far."""

    def __init__(self, program: Program, start: Optimum | None) -> None:
        self.program = program
        self.phi = program.features
        zero = torch.zeros(program.shape, dtype=torch.float64)
        self.weights = zero if start is None else start.weights.clone()
        self.bias = zero.new_zeros(len(zero)) if start is None else start.bias.clone()
        self.scores = self.phi @ self.weights.flatten(1).T + self.bias
        self.ahead = self.weights, self.bias, self.scores
        self.momentum = 1.0
        self.best_dual = -float("inf")
        self.bias_scale = float(self.phi.square().sum(1).mean()) ** 0.5
        self.length = len(self.phi) / (SAFETY * CURVATURE[program.loss] * self._norm_square())

    def bounds(self) -> tuple[float, float]:
        """Objective at the iterate, and the best dual value of any extrapolated point."""
        program = self.program
        loss = program.loss_function.value(self.scores, program.targets) / len(self.phi)
        penalty = program.regulariser_function.value(self.weights)
        self.negative = negative_gradient(program, self.ahead[2])
        self.slopes = self._pull(self.negative)
        dual, slopes = dual_point(program, self.ahead[2]), self.slopes
        if program.intercept:
            slopes = self._pull(dual)
        self.best_dual = max(self.best_dual, dual_value(program, dual, slopes[None]))
        return float(loss) + program.beta * float(penalty), self.best_dual

    def step(self) -> None:
        """One proximal step from the extrapolated point, and the next extrapolation."""
        program, n = self.program, len(self.phi)
        weights, bias, _ = self.ahead
        weights = program.regulariser_function.prox(
            weights + self.length / n * self.slopes, self.length * program.beta
        )
        if program.intercept:
            scale = self.bias_scale**2 * self.length / n
            bias = bias + scale * self.negative.sum(0)
        scores = self.phi @ weights.flatten(1).T + bias
        uphill = ((self.ahead[0] - weights) * (weights - self.weights)).sum()
        if uphill > 0:
            self.momentum = 1.0
        following = (1 + (1 + 4 * self.momentum**2) ** 0.5) / 2
        share = (self.momentum - 1) / following
        self.ahead = (
            weights + share * (weights - self.weights),
            bias + share * (bias - self.bias),
            scores + share * (scores - self.scores),
        )
        self.weights, self.bias, self.scores, self.momentum = weights, bias, scores, following

    def _pull(self, dual: Tensor) -> Tensor:
        return (dual.T @ self.phi).view(self.program.shape)

    def _norm_square(self) -> float:
        """The largest eigenvalue of the features' kernel, the intercept's column included."""
        vector = torch.ones(len(self.phi), 1, dtype=torch.float64)
        size = 1.0
        for _ in range(POWER_STEPS):
            image = self.phi @ (self.phi.T @ vector)
            if self.program.intercept:
                image += self.bias_scale**2 * vector.sum()
            size = float(image.norm())
            if not size:
                return 1.0
            vector = image / size
        return size
