"""(G) and (R) as conic programs, with primal and dual points well inside the cones.

minimise loss(A v + b) + n beta R(v)  subject to  C v >= 0   (cones of (R)),

with the group norm as sum of t_j, t_j >= |v_j| (second-order cones).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.programs.program import Program
from convexcnn.solvers.cones.rows import ConeRows
from convexcnn.solvers.duality import dual_point, dual_value, negative_gradient
from convexcnn.solvers.interior.block_system import Features
from convexcnn.solvers.linear_algebra import second_order_cone as soc

START = 3.0
"""How much the first norms cost, relative to the loss at zero."""


@dataclass(frozen=True)
class Point:
    """Primal and dual variables; those that a program does not have are empty.

    Args:
        weights: v, (s, k, G, d).
        bias: b, (k,).
        cone: (t, v), (s, k, G, 1 + d), with the group norm.
        cone_dual: z of the second-order cones.
        slack: C v, (s, k, cells, g, m), for (R).
        multipliers: mu of C v >= 0.
    """

    weights: Tensor
    bias: Tensor
    cone: Tensor
    cone_dual: Tensor
    slack: Tensor
    multipliers: Tensor

    def moved(self, step: float, direction: Point) -> Point:
        return Point(*(a + step * b for a, b in zip(self, direction, strict=True)))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(vars(self).values())

    def complementarity(self) -> float:
        """Mean product of the pairs of primal and dual variables."""
        pairs = self.cone.shape[:-1].numel() + self.slack.numel()
        total = (self.cone * self.cone_dual).sum() + (self.slack * self.multipliers).sum()
        return float(total) / pairs if pairs else 0.0

    def longest_step(self, direction: Point) -> float:
        """The largest step that stays inside all cones, primal and dual."""
        return self.longest_steps(direction, direction, (0.0,))[0]

    def longest_steps(
        self, direction: Point, correction: Point, weights: Sequence[float]
    ) -> list[float]:
        """:meth:`longest_step` of direction + weight correction, for every weight."""
        longest = [math.inf] * len(weights)
        if self.cone.numel():
            for value, change, more in (
                (self.cone, direction.cone, correction.cone),
                (self.cone_dual, direction.cone_dual, correction.cone_dual),
            ):
                for i, weight in enumerate(weights):
                    step = soc.longest_step(value, torch.add(change, more, alpha=weight))
                    longest[i] = min(longest[i], step)
        if self.slack.numel():
            for value, change, more in (
                (self.slack, direction.slack, correction.slack),
                (self.multipliers, direction.multipliers, correction.multipliers),
            ):
                change, more = change / value, more / value
                for i, weight in enumerate(weights):
                    steepest = -float(torch.add(change, more, alpha=weight).amin())
                    longest[i] = min(longest[i], 1 / steepest if steepest > 0 else math.inf)
        return longest


class ConicProgram:
    """The program in the scale of sums, with its optimality conditions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        k, cells, g, d = program.shape
        self.signs = 2 if program.formulation == "relu" else 1
        self.shape = (self.signs, k, cells * g, d)
        self.features = Features(program)
        self.beta = len(program.targets) * program.beta
        self.rows = ConeRows(program) if self.signs == 2 else None
        self.is_norm = program.regulariser == "group"

    def scores(self, point: Point) -> Tensor:
        return self.features.scores(point.weights) + point.bias

    def pull(self, scores: Tensor) -> Tensor:
        return self.features.pull(scores, self.signs)

    def start(self) -> Point:
        """A point in the middle of the cones, of a size that fits the loss at zero.

        On the ray through the centre of a cone with m rows, beta t - mu (log of all m + 2
        barriers) is least at t = mu (m + 2) / beta; the l2 penalty has its own such size.
        """
        s, k, groups, _ = self.shape
        zero = torch.zeros(k, dtype=torch.float64)
        empty = torch.zeros(0, dtype=torch.float64)
        none = Point(torch.zeros(self.shape).double(), zero, empty, empty, empty, empty)
        if not (self.is_norm or self.rows):
            return none
        scores = torch.zeros_like(self.program.targets)
        loss = float(self.program.loss_function.value(scores, self.program.targets))
        share = START * loss / (self.beta * s * k * groups)
        m = self.rows.count if self.rows else 0
        if self.is_norm:
            t, target = share, self.beta * share / (m + 2)
            length = t * math.sqrt(m / (m + 2))
        else:
            length = math.sqrt(2 * share)
            target = self.beta * length**2 / m
        point = none
        if self.rows:
            weights = (length * self.rows.centres(self.program.gates)).expand(self.shape).clone()
            slack = self.rows.responses(weights)
            point = replace(point, weights=weights, slack=slack, multipliers=target / slack)
        if self.is_norm:
            head = torch.full((s, k, groups, 1), t, dtype=torch.float64)
            cone = torch.cat([head, point.weights], -1)
            point = replace(point, cone=cone, cone_dual=target * soc.reciprocal(cone))
        return point

    def residual(self, point: Point, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the Lagrangian by t (s, k, G, 1), v and b."""
        dual = negative_gradient(self.program, scores)
        by_weights = -self.pull(dual)
        by_t = torch.zeros(0, dtype=torch.float64)
        if self.is_norm:
            by_t = self.beta - point.cone_dual[..., :1]
            by_weights = by_weights - point.cone_dual[..., 1:]
        else:
            by_weights = by_weights + self.beta * point.weights
        if self.rows:
            by_weights = by_weights - self.rows.pull(point.multipliers)
        by_bias = -dual.sum(0) if self.program.intercept else torch.zeros_like(point.bias)
        return by_t, by_weights, by_bias

    def bounds(self, point: Point, scores: Tensor) -> tuple[float, float]:
        """Objective and a lower bound of the program."""
        weights = point.weights if self.signs == 2 else point.weights[0]
        shape = (*weights.shape[:-2], *self.program.shape[1:])
        primal = self.program.objective(weights.view(shape), point.bias)
        dual = dual_point(self.program, scores)
        slopes = self.pull(dual)
        if self.rows:
            slopes = slopes + self.rows.pull(point.multipliers)
        slopes = slopes.view(self.signs, *self.program.shape)
        return primal, dual_value(self.program, dual, slopes)
