"""A primal-dual interior-point method for (G) and (R), to any accuracy, in 10 to 30 iterations.

minimise loss(A v + b) + n beta R(v)  subject to  C v >= 0   (cones of (R)),

with the group norm as sum of t_j, t_j >= |v_j| (second-order cones). Mehrotra's predictor and
corrector with Nesterov-Todd scaling; every iteration costs one batch of d x d factorisations and
one of the size of the scores (:mod:`.linear_algebra.block_system`). Gates lie inside their own
cones, so every iterate is strictly feasible: the network it gives is a ReLU network, with no
violation at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers.cones.rows import ConeRows
from convexcnn.solvers.duality import dual_point, dual_value, negative_gradient
from convexcnn.solvers.linear_algebra import second_order_cone as soc
from convexcnn.solvers.linear_algebra.block_system import BlockSystem
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.warm_path import InMemorySolver

TO_BOUNDARY = 0.99
START = 30.0
"""How much larger the first norms are than the loss at zero would pay for; large is fast."""
HALVINGS = 8


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
        steps = [float("inf")]
        if self.cone.numel():
            steps.append(soc.longest_step(self.cone, direction.cone))
            steps.append(soc.longest_step(self.cone_dual, direction.cone_dual))
        if self.slack.numel():
            for value, change in (
                (self.slack, direction.slack),
                (self.multipliers, direction.multipliers),
            ):
                steepest = float((-change / value).max())
                steps.append(1 / steepest if steepest > 0 else float("inf"))
        return min(steps)


class _Problem:
    """The program in the scale of sums, with its optimality conditions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        k, cells, g, d = program.shape
        self.signs = 2 if program.formulation == "relu" else 1
        self.shape = (self.signs, k, cells * g, d)
        self.features = program.features.view(len(program.targets), cells * g, d)
        self.beta = len(program.targets) * program.beta
        self.rows = ConeRows(program) if self.signs == 2 else None
        self.is_norm = program.regulariser == "group"

    def scores(self, point: Point) -> Tensor:
        w = point.weights
        linear = w[0] - w[1] if self.signs == 2 else w[0]
        return self.features.flatten(1) @ linear.flatten(1).T + point.bias

    def pull(self, scores: Tensor) -> Tensor:
        pulled = (scores.T @ self.features.flatten(1)).view(self.shape[1:])
        return torch.stack([pulled, -pulled][: self.signs])

    def start(self) -> Point:
        """A point well inside the cones, with complementarity that fits the size of the loss."""
        s, k, groups, _ = self.shape
        zero = torch.zeros(k, dtype=torch.float64)
        empty = torch.zeros(0, dtype=torch.float64)
        none = Point(torch.zeros(self.shape).double(), zero, empty, empty, empty, empty)
        if not (self.is_norm or self.rows):
            return none
        scores = torch.zeros_like(self.program.targets)
        loss = float(self.program.loss_function.value(scores, self.program.targets))
        t = START * loss / (self.beta * s * k * groups)
        weights = none.weights
        if self.rows:
            gates = self.program.gates / self.program.gates.norm(dim=1, keepdim=True)
            weights = (0.5 * t * gates).repeat(groups // len(gates), 1).expand(self.shape).clone()
        target = 0.75 * self.beta * t
        point = replace(none, weights=weights)
        if self.is_norm:
            cone = torch.cat([torch.full((s, k, groups, 1), t, dtype=torch.float64), weights], -1)
            point = replace(point, cone=cone, cone_dual=target * soc.reciprocal(cone))
        if self.rows:
            slack = self.rows.responses(weights)
            point = replace(point, slack=slack, multipliers=target / slack)
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
        problem = _Problem(program)
        history = History(self.tolerance)
        point, status = problem.start(), Status.ITERATION_LIMIT
        for _ in range(self.max_iterations):
            scores = problem.scores(point)
            if history.add(*problem.bounds(point, scores)):
                status = Status.OPTIMAL
                break
            moved = _step(problem, point, scores)
            if moved is None:
                status = Status.STALLED
                break
            point = moved
        shape = program.shape if problem.signs == 1 else (2, *program.shape)
        multipliers = point.multipliers / len(program.targets) if problem.rows else None
        return Optimum(point.weights.reshape(shape), point.bias, status, history.rows, multipliers)


def _step(problem: _Problem, point: Point, scores: Tensor) -> Point | None:
    """One predictor and corrector; None if rounding leaves no step."""
    try:
        newton = _Newton(problem, point, scores)
    except (SettingError, RuntimeError):  # a factorisation failed
        return None
    mean = point.complementarity()
    affine = newton.direction(0.0, None)
    reach = min(1.0, point.longest_step(affine))
    centring = (1 - reach) ** 3
    direction = newton.direction(centring * mean, affine) if mean else affine
    step = min(1.0, TO_BOUNDARY * point.longest_step(direction))
    if problem.program.loss == "squared":
        return point.moved(step, direction) if step > 1e-8 else None
    merit = newton.merit(mean)
    for _ in range(HALVINGS):
        trial = point.moved(step, direction)
        residual = problem.residual(trial, problem.scores(trial))
        ahead = _merit(residual, trial.complementarity(), problem.beta)
        if ahead <= (1 - 0.01 * step) * merit:
            return trial
        step /= 2
    return None


def _merit(residual: tuple[Tensor, Tensor, Tensor], mean: float, beta: float) -> float:
    square = sum(float(r.square().sum()) for r in residual)
    return math.sqrt(square) + mean / beta


class _Newton:
    """The linearised optimality conditions at one point."""

    def __init__(self, problem: _Problem, point: Point, scores: Tensor) -> None:
        self.problem = problem
        self.point = point
        self.residual = problem.residual(point, scores)
        blocks = self._blocks()
        program = problem.program
        curvature = None if program.loss == "squared" else _softmax_root(scores)
        self.system = BlockSystem(problem.features, blocks, curvature, intercept=program.intercept)

    def merit(self, mean: float) -> float:
        return _merit(self.residual, mean, self.problem.beta)

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
            blocks = blocks + problem.rows.gram(point.multipliers / point.slack)
        return blocks

    def direction(self, target: float, affine: Point | None) -> Point:
        """Solve for complementarity ``target``, with Mehrotra's correction after a predictor."""
        problem, point = self.problem, self.point
        by_t, by_weights, by_bias = self.residual
        right, first = -by_weights, by_t
        cone_right = row_right = point.slack
        if problem.is_norm:
            wanted = -soc.product(self.root, self.root)
            wanted[..., 0] += target
            if affine is not None:
                wanted = wanted - soc.product(
                    self.scaling.divide(affine.cone), self.scaling.times(affine.cone_dual)
                )
            cone_right = soc.quotient(self.root, wanted)
            pulled = self.scaling.divide(cone_right)
            first = -by_t + pulled[..., :1]
            right = right + pulled[..., 1:] - self.tv * first / self.tt
        if problem.rows:
            row_right = target - point.slack * point.multipliers
            if affine is not None:
                row_right = row_right - affine.slack * affine.multipliers
            row_right = row_right / point.slack
            right = right + problem.rows.pull(row_right)
        weights, bias = self.system.solve(right, -by_bias)
        cone = cone_dual = slack = multipliers = by_t.new_zeros(0)
        if problem.is_norm:
            t = (first - (self.tv * weights).sum(-1, keepdim=True)) / self.tt
            cone = torch.cat([t, weights], -1)
            cone_dual = self.scaling.divide(cone_right - self.scaling.divide(cone))
        if problem.rows:
            slack = problem.rows.changes(weights)
            multipliers = row_right - point.multipliers / point.slack * slack
        return Point(weights, bias, cone, cone_dual, slack, multipliers)


def _softmax_root(scores: Tensor) -> Tensor:
    """The square root of diag(p) - p p' for every image, (n, k, k)."""
    p = torch.softmax(scores, 1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    root: Tensor = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.transpose(1, 2)
    return root
