"""The dual point of a solver's iterate, which says when to stop; certificates have their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.program import Program
from convexcnn.programs.regularisers import Norm, get_regulariser


def negative_gradient(program: Program, scores: Tensor) -> Tensor:
    """L = -loss'(scores), (n, k)."""
    return -program.loss_function.gradient(scores, program.targets)


@dataclass(frozen=True)
class DualPoint:
    """kept L + (1 - kept) Y - shift, a combination whose columns sum to zero if they must.

    Args:
        values: (n, k).
        kept: how much of L is left.
        shift: (k,).
    """

    values: Tensor
    kept: Tensor
    shift: Tensor

    def pull(self, pulled: Tensor, cross: Tensor, feature_sum: Tensor) -> Tensor:
        """Phi' of the point, (k, m), from L' Phi, Y' Phi (k, m) and the sum of the features."""
        mixed = self.kept * pulled + (1 - self.kept) * cross
        return mixed - torch.outer(self.shift, feature_sum)


def balanced(
    kind: ProgramKind, negative: Tensor, targets: Tensor, processes: Processes = ALONE
) -> DualPoint:
    """Return the dual point of L = -loss'(scores).

    Squared loss: the centred residual. Cross-entropy: Y - P, with P mixed with one fixed
    distribution so that its mean is that of Y and its rows stay in the simplex.

    Args:
        kind: which program.
        negative: L, (n, k).
        targets: Y, (n, k).
        processes: that share the rows; each has the dual point of its own.
    """
    one, zero = negative.new_ones(()), torch.zeros_like(negative[0])
    if not kind.intercept:
        return DualPoint(negative, one, zero)
    sums = torch.stack([negative.sum(0), targets.sum(0)])
    processes.add_up(sums)
    mean, want = sums / processes.total(len(targets))
    if kind.loss == "squared":
        return DualPoint(negative - mean, one, mean)
    chances, have = targets - negative, want - mean
    kept = torch.where(want == have, 1.0, want / have).min().clamp_max(1)
    shift = want - kept * have
    return DualPoint(targets - kept * chances - shift, kept, shift)


def feasible_dual(kind: ProgramKind, scores: Tensor, targets: Tensor) -> Tensor:
    """The values of :func:`balanced` for scores and targets (n, k)."""
    return balanced(kind, -get_loss(kind.loss).gradient(scores, targets), targets).values


def dual_point(program: Program, scores: Tensor) -> Tensor:
    """:func:`feasible_dual` for a program in memory."""
    return feasible_dual(program.kind, scores, program.targets)


def dual_value(program: Program, dual: Tensor, slopes: Tensor) -> float:
    """:func:`best_dual_value` for a program in memory."""
    return best_dual_value(program.kind, program.targets, program.beta, dual, slopes)


def best_dual_value(
    kind: ProgramKind,
    targets: Tensor,
    beta: float,
    dual: Tensor,
    slopes: Tensor,
    processes: Processes = ALONE,
) -> float:
    """The dual objective at the best feasible multiple, not negative, of a dual point.

    Where classes fall apart, with squared loss and no nuclear norm, each has a multiple of its
    own.

    Args:
        kind: which program.
        targets: Y, (n, k).
        beta: weight of the regulariser.
        dual: L, (n, k).
        slopes: Phi' L, (s, k, cells, g, d), plus C' mu for (R); s is 1 for (G). Over all rows.
        processes: that share the rows of Y and L.
    """
    n, k = processes.total(len(dual)), dual.shape[1]
    if kind.loss != "squared":
        limit, penalty = _limits(kind, beta, n, slopes)
        scale = min(1.0, limit)
        chances = (targets - scale * dual).clamp_min(0)
        entropy = processes.total(float(torch.special.entr(chances).sum()))
        return entropy / n - scale**2 * penalty
    sums = torch.stack([(dual * targets).sum(0), dual.square().sum(0)])
    processes.add_up(sums)
    groups = [[c] for c in range(k)] if kind.regulariser != "nuclear" else [list(range(k))]
    value = 0.0
    for group in groups:
        limit, penalty = _limits(kind, beta, n, slopes[:, group])
        inner, square = (float(total) / n for total in sums[:, group].sum(1))
        curvature = square + 2 * penalty
        value += best_quadratic(inner, curvature, limit)
    return value


def best_quadratic(inner: float, curvature: float, limit: float) -> float:
    """The largest t inner - t^2 curvature / 2 over 0 <= t <= limit.

    A negative multiple of a dual point would have to be bounded from below as well.
    """
    scale = max(0.0, min(limit, inner / curvature)) if curvature else 0.0
    return scale * inner - 0.5 * scale**2 * curvature


def _limits(kind: ProgramKind, beta: float, n: float, slopes: Tensor) -> tuple[float, float]:
    """The largest feasible multiple of a dual point, and what multiples of it cost, by its slopes.

    Args:
        kind: which program.
        beta: weight of the regulariser.
        n: rows.
        slopes: Phi' L of one or all classes.
    """
    regulariser = get_regulariser(kind.regulariser)
    slopes = slopes / (n * beta)
    if not isinstance(regulariser, Norm):
        return float("inf"), beta * float(regulariser.conjugate(slopes))
    largest = max(float(regulariser.dual_norm(part)) for part in slopes)
    return (1 / largest if largest else float("inf")), 0.0
