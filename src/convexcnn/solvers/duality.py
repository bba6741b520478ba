"""The dual point of a solver's iterate, which says when to stop; certificates have their own."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.program import Program
from convexcnn.programs.regularisers import Norm


def negative_gradient(program: Program, scores: Tensor) -> Tensor:
    """L = -loss'(scores), (n, k)."""
    return -program.loss_function.gradient(scores, program.targets)


def dual_point(program: Program, scores: Tensor) -> Tensor:
    """L of :func:`feasible_dual` for a program in memory."""
    return feasible_dual(program.kind, scores, program.targets)


def feasible_dual(kind: ProgramKind, scores: Tensor, targets: Tensor) -> Tensor:
    """L with columns that sum to zero if the intercept asks for it.

    Squared loss: the centred residual. Cross-entropy: Y - P, with P mixed with one fixed
    distribution so that its mean is that of Y and its rows stay in the simplex.
    """
    dual = -get_loss(kind.loss).gradient(scores, targets)
    if not kind.intercept:
        return dual
    if kind.loss == "squared":
        return dual - dual.mean(0)
    chances = targets - dual
    have, want = chances.mean(0), targets.mean(0)
    kept = (want / have).min().clamp_max(1)
    return targets - kept * chances - (want - kept * have)


def dual_value(program: Program, dual: Tensor, slopes: Tensor) -> float:
    """The dual objective at the longest multiple of L that is feasible, at most L itself.

    Args:
        program: (G) or (R).
        dual: L of :func:`dual_point`, (n, k).
        slopes: Phi' L, (s, k, cells, g, d), plus C' mu for (R).
    """
    n, targets = len(dual), program.targets
    regulariser = program.regulariser_function
    slopes = slopes / (n * program.beta)
    scale, penalty = 1.0, 0.0
    if isinstance(regulariser, Norm):
        sizes = [float(regulariser.dual_norm(part)) for part in slopes]
        scale = 1 / max(1.0, *sizes)
    else:
        penalty = program.beta * float(regulariser.conjugate(slopes))
    if program.loss == "squared":
        inner = float((dual * targets).sum())
        return (scale * inner - 0.5 * scale**2 * float(dual.square().sum())) / n - penalty
    chances = (targets - scale * dual).clamp_min(0)
    return float(torch.special.entr(chances).sum()) / n - penalty
