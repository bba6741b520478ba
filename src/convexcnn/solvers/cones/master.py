"""The master of column generation for (R): the best combination of filters that are known.

minimise loss(sum_j t_j r_j + b, Y) + n beta sum over groups R(sum_j t_j u_j)  over t >= 0 and b

with unit filters u_j inside their cones and their pooled responses r_j. Newton's method with a
bounded quadratic program per step: filters of one group join at their true norm, and most t are
zero. With squared loss the classes are solved one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.solvers.linear_algebra.bounded_quadratic import bounded_minimum
from convexcnn.solvers.linear_algebra.pseudo_inverse import pseudo_inverse

NEWTON_STEPS = 30
HALVINGS = 20
RIDGE = 1e-11
"""Proximal term of a Newton step relative to the curvature: similar filters are nearly parallel."""


@dataclass(frozen=True)
class Columns:
    """Filters inside their cones, with their weights.

    Args:
        filters: u, (m, d), of norm 1.
        groups: (m,) cone * 2 k + sign * k + class, with sign 0 for V and 1 for W.
        responses: r with its sign, (n, m).
        weights: t >= 0, (m,).
    """

    filters: Tensor
    groups: Tensor
    responses: Tensor
    weights: Tensor

    def chosen(self, which: Tensor) -> Columns:
        return Columns(
            self.filters[which],
            self.groups[which],
            self.responses[:, which],
            self.weights[which],
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        return cls(
            torch.cat([part.filters for part in parts]),
            torch.cat([part.groups for part in parts]),
            torch.cat([part.responses for part in parts], 1),
            torch.cat([part.weights for part in parts]),
        )

    def sums(self, groups: int) -> Tensor:
        """sum_j t_j u_j of every group, (groups, d)."""
        total = self.filters.new_zeros(groups, self.filters.shape[1])
        return total.index_add_(0, self.groups, self.weights[:, None] * self.filters)


@dataclass(frozen=True)
class Master:
    """The restricted program.

    Args:
        kind: which program.
        targets: Y, (n, k).
        beta: n times the weight of the regulariser.
        groups: number of groups.
    """

    kind: ProgramKind
    targets: Tensor
    beta: float
    groups: int

    def scores(self, columns: Columns, bias: Tensor) -> Tensor:
        """sum_j t_j r_j + b, (n, k)."""
        k = self.targets.shape[1]
        total = bias.expand_as(self.targets).clone()
        weighted = columns.responses * columns.weights
        return total.index_add_(1, columns.groups % k, weighted)

    def solve(self, columns: Columns, bias: Tensor, enough: float) -> tuple[Columns, Tensor]:
        """Return columns with new weights, and b, once steps gain less than ``enough``."""
        k = self.targets.shape[1]
        if self.kind.loss != "squared":
            return _Newton(self, columns, columns.groups % k).solve(bias, enough)
        weights, bias = columns.weights.clone(), bias.clone()
        for label in range(k):
            mine = (columns.groups % k == label).nonzero()[:, 0]
            part = replace(self, targets=self.targets[:, label : label + 1])
            newton = _Newton(part, columns.chosen(mine), torch.zeros_like(mine))
            solved, bias[label : label + 1] = newton.solve(bias[label : label + 1], enough / k)
            weights[mine] = solved.weights
        return replace(columns, weights=weights), bias


class _Newton:
    """Newton's method for the columns of one class, or of all where the loss couples them."""

    def __init__(self, master: Master, columns: Columns, labels: Tensor) -> None:
        self.master = master
        self.columns = columns
        self.labels = labels
        self.loss = get_loss(master.kind.loss)
        _, self.local = torch.unique(columns.groups, return_inverse=True)
        same = self.local[:, None] == self.local
        self.inner = torch.where(same, columns.filters @ columns.filters.T, 0.0)
        self.same = same
        squared = master.kind.loss == "squared"
        self.curvature = self._curvature(master.targets) if squared else None

    def solve(self, bias: Tensor, enough: float) -> tuple[Columns, Tensor]:
        weights = self.columns.weights
        value = self._value(weights, bias)
        for _ in range(NEWTON_STEPS):
            target, ahead = self._target(weights, bias)
            step, before = 1.0, value
            for _ in range(HALVINGS):
                trial = weights + step * (target - weights), bias + step * (ahead - bias)
                value = self._value(*trial)
                if value <= before:
                    break
                step /= 2
            if value > before:
                break
            weights, bias = trial
            if before - value <= enough:
                break
        return replace(self.columns, weights=weights), bias

    def _scores(self, weights: Tensor, bias: Tensor) -> Tensor:
        total = bias.expand_as(self.master.targets).clone()
        return total.index_add_(1, self.labels, self.columns.responses * weights)

    def _sums(self, weights: Tensor) -> Tensor:
        filters = self.columns.filters
        total = filters.new_zeros(len(filters), filters.shape[1])
        return total.index_add_(0, self.local, weights[:, None] * filters)

    def _value(self, weights: Tensor, bias: Tensor) -> float:
        loss = self.loss.value(self._scores(weights, bias), self.master.targets)
        sums = self._sums(weights)
        is_norm = self.master.kind.regulariser == "group"
        size = sums.norm(dim=1).sum() if is_norm else 0.5 * sums.square().sum()
        return float(loss + self.master.beta * size)

    def _target(self, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The minimiser of the quadratic model over t >= 0 and b."""
        scores = self._scores(weights, bias)
        negative = -self.loss.gradient(scores, self.master.targets)
        slope = -(self.columns.responses * negative[:, self.labels]).sum(0)
        curvature, mixed, by_bias = self.curvature or self._curvature(scores)
        penalty_slope, penalty_curvature = self._penalty(weights)
        matrix = curvature + penalty_curvature
        slope = slope + penalty_slope
        down = negative.sum(0)
        inverse = pseudo_inverse(by_bias)
        if self.master.kind.intercept:
            matrix = matrix - mixed @ inverse @ mixed.T
            slope = slope + mixed @ (inverse @ down)
        diagonal = matrix.diagonal()
        diagonal += RIDGE * curvature.diagonal().mean().clamp_min(1e-300)
        free = (weights > 0) | (slope < 0)
        target = weights
        if len(weights):
            target = bounded_minimum(matrix, slope - matrix @ weights, free)
        if self.master.kind.intercept:
            bias = bias + inverse @ (down - mixed.T @ (target - weights))
        return target, bias

    def _curvature(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Second derivatives of the loss by t (m, m), by t and b (m, k), and by b (k, k)."""
        responses, labels = self.columns.responses, self.labels
        if self.master.kind.loss == "squared":
            count = torch.full((1, 1), float(len(responses)), dtype=torch.float64)
            return responses.T @ responses, responses.sum(0)[:, None], count
        chances = torch.softmax(scores, 1)
        weighted = responses * chances[:, labels]
        matrix = -(weighted.T @ weighted)
        for label in torch.unique(labels).tolist():
            mine = (labels == label).nonzero()[:, 0]
            matrix[mine[:, None], mine] += responses[:, mine].T @ weighted[:, mine]
        mixed = -(weighted.T @ chances)
        mixed[torch.arange(len(labels)), labels] += weighted.sum(0)
        return matrix, mixed, torch.diag(chances.sum(0)) - chances.T @ chances

    def _penalty(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of n beta R; a group that is zero pays the norm of every filter."""
        beta, filters = self.master.beta, self.columns.filters
        sums = self._sums(weights)
        if self.master.kind.regulariser == "l2":
            return beta * (filters * sums[self.local]).sum(1), beta * self.inner
        norms = sums.norm(dim=1)
        there = norms > 1e-12 * norms.sum()
        unit = sums / norms.clamp_min(1e-300)[:, None]
        along = (filters * unit[self.local]).sum(1)
        slope = torch.where(there[self.local], along, 1.0)
        part = (self.inner - self.same * along[:, None] * along) / norms[self.local].clamp_min(
            1e-300
        )
        return beta * slope, beta * torch.where(there[self.local], part, 0.0)
