"""Newton directions towards the central path, corrected until they are as exact as they must be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convexcnn.solvers.interior.block_system import BlockSystem
from convexcnn.solvers.interior.conic_program import ConicProgram, Point
from convexcnn.solvers.linear_algebra import second_order_cone as soc

CORRECTIONS = 6
SPREAD = 10.0
"""Products of pairs between a tenth of the wanted one and ten times as much are left alone."""

Residual = tuple[Tensor, Tensor, Tensor]


class Newton:
    """The linearised optimality conditions at one point.

    Args:
        problem: the program.
        point: inside the cones.
        scores: of the point.
        rounded: factorise in float32, several times faster; directions need :meth:`polished`.

    Raises:
        SettingError, RuntimeError: if a factorisation fails.
    """

    def __init__(
        self, problem: ConicProgram, point: Point, scores: Tensor, *, rounded: bool
    ) -> None:
        self.problem = problem
        self.point = point
        self.rounded = rounded
        self.residual = problem.residual(point, scores)
        program = problem.program
        curvature = None if program.loss == "squared" else _softmax_root(scores)
        self.system = BlockSystem(
            problem.features,
            self._blocks(),
            curvature,
            intercept=program.intercept,
            rounded=rounded,
        )

    def _blocks(self) -> Tensor:
        problem, point = self.problem, self.point
        s, k, groups, d = problem.shape
        if problem.is_norm:
            self.scaling = soc.Scaling.of(point.cone, point.cone_dual)
            self.root = self.scaling.times(point.cone_dual)
            self.tt, self.tv, blocks = self.scaling.curvature()
        else:
            eye = torch.eye(d, dtype=torch.float64)
            blocks = (problem.beta * eye).expand(s, k, groups, d, d)
        if problem.rows:
            self.stiffness = point.multipliers / point.slack
            blocks = blocks + problem.rows.gram(self.stiffness)
        return blocks

    def merit(self, mean: float) -> float:
        return merit(self.residual, mean, self.problem.beta)

    def direction(self, target: float) -> Point:
        """Towards a point without residual whose pairs all have the product ``target``."""
        cone_right = row_right = self.point.slack
        if self.problem.is_norm:
            cone_right = -soc.product(self.root, self.root)
            cone_right[..., 0] += target
        if self.problem.rows:
            row_right = target - self.point.slack * self.point.multipliers
        return self._solve(self.residual, cone_right, row_right)

    def correction(self, direction: Point, target: float) -> Point:
        """What brings stray products at the end of a direction nearer to ``target``.

        Gondzio, *Multiple centrality corrections in a primal-dual method for linear programming*
        (1996), with eigenvalues for second-order cones.
        """
        problem, point = self.problem, self.point
        low, high = target / SPREAD, target * SPREAD
        cone_right = row_right = point.slack
        if problem.is_norm:
            ahead = soc.product(
                self.root + self.scaling.divide(direction.cone),
                self.root + self.scaling.times(direction.cone_dual),
            )
            cone_right = soc.clamp(ahead, low, high) - ahead
        if problem.rows:
            ahead = (point.slack + direction.slack) * (point.multipliers + direction.multipliers)
            row_right = (ahead.clamp(low, high) - ahead).clamp_min(-high)
        return self._solve(None, cone_right, row_right)

    def polished(self, direction: Point, limit: float) -> Point | None:
        """The direction with no linearised residual of any filter above ``limit``.

        None if a rounded factor does not get there; an exact one gets as far as it can.
        """
        before = math.inf
        for _ in range(CORRECTIONS):
            remaining = self._remaining(direction)
            worst = max(float(r.norm(dim=-1).max()) for r in remaining[1:])
            if worst <= limit:
                return direction
            if worst > 0.5 * before:
                break
            before = worst
            direction = direction.moved(1.0, self._solve(remaining, None, None))
        return None if self.rounded else direction

    def _remaining(self, direction: Point) -> Residual:
        """The residual that a full step along a direction leaves, by the linearised conditions."""
        problem = self.problem
        by_t, by_weights, by_bias = self.residual
        change = self.system.curve(problem.scores(direction))
        by_weights = by_weights + problem.pull(change)
        if problem.is_norm:
            by_weights = by_weights - direction.cone_dual[..., 1:]
        else:
            by_weights = by_weights + problem.beta * direction.weights
        if problem.rows:
            by_weights = by_weights - problem.rows.pull(direction.multipliers)
        if problem.program.intercept:
            by_bias = by_bias + change.sum(0)
        return torch.zeros_like(by_t), by_weights, by_bias

    def _solve(
        self, residual: Residual | None, cone_right: Tensor | None, row_right: Tensor | None
    ) -> Point:
        """Solve for a residual to remove and the change of the products of pairs; None is zero."""
        problem, point = self.problem, self.point
        if residual is None:
            residual = (self.residual[0] * 0, self.residual[1] * 0, self.residual[2] * 0)
        by_t, by_weights, by_bias = residual
        right, first = -by_weights, -by_t
        if problem.is_norm:
            if cone_right is not None:
                cone_right = self.scaling.divide(soc.quotient(self.root, cone_right))
                first = first + cone_right[..., :1]
                right = right + cone_right[..., 1:]
            right = right - self.tv * first / self.tt
        if problem.rows and row_right is not None:
            row_right = row_right / point.slack
            right = right + problem.rows.pull(row_right)
        weights, bias = self.system.solve(right, -by_bias)
        cone = cone_dual = slack = multipliers = by_t.new_zeros(0)
        if problem.is_norm:
            t = (first - (self.tv * weights).sum(-1, keepdim=True)) / self.tt
            cone = torch.cat([t, weights], -1)
            cone_dual = -self.scaling.divide(self.scaling.divide(cone))
            if cone_right is not None:
                cone_dual = cone_dual + cone_right
        if problem.rows:
            slack = problem.rows.changes(weights)
            multipliers = -self.stiffness * slack
            if row_right is not None:
                multipliers = multipliers + row_right
        return Point(weights, bias, cone, cone_dual, slack, multipliers)


def merit(residual: Residual, mean: float, beta: float) -> float:
    """How far a point is from optimal: its residual and the mean product of its pairs."""
    square = sum(float(r.square().sum()) for r in residual)
    return math.sqrt(square) + mean / beta


def _softmax_root(scores: Tensor) -> Tensor:
    """The square root of diag(p) - p p' for every image, (n, k, k)."""
    p = torch.softmax(scores, 1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    root: Tensor = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.transpose(1, 2)
    return root
