"""The dual point of a solver's iterate, which says when to stop; certificates have their own."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from convexcnn.programs.losses import Loss
from convexcnn.programs.regularisers import Norm, Regulariser


class DualTerms(Protocol):
    """What the dual of a program depends on besides Phi: a ``Program`` has it all."""

    @property
    def targets(self) -> Tensor: ...
    @property
    def beta(self) -> float: ...
    @property
    def loss(self) -> str: ...
    @property
    def intercept(self) -> bool: ...
    @property
    def loss_function(self) -> Loss: ...
    @property
    def regulariser_function(self) -> Regulariser: ...


def negative_gradient(program: DualTerms, scores: Tensor) -> Tensor:
    """L = -loss'(scores), (n, k)."""
    return -program.loss_function.gradient(scores, program.targets)


def dual_mixture(program: DualTerms, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return s and c (k,) with which s L + (1 - s) Y - c is a dual point.

    Its columns sum to zero if the intercept asks for it. Squared loss: the centred residual, s = 1.
    Cross-entropy: Y - P, with P mixed with one fixed distribution so that its mean is that of Y
    and its rows stay in the simplex.

    Args:
        program: whose dual it is.
        gradient: L of :func:`negative_gradient`, (n, k).
    """
    one = gradient.new_ones(())
    if not program.intercept:
        return one, gradient.new_zeros(gradient.shape[1])
    if program.loss == "squared":
        return one, gradient.mean(0)
    want = program.targets.mean(0)
    have = want - gradient.mean(0)
    kept = (want / have).min().clamp_max(1)
    return kept, want - kept * have


def dual_point(program: DualTerms, scores: Tensor) -> Tensor:
    """L with columns that sum to zero if the intercept asks for it."""
    gradient = negative_gradient(program, scores)
    kept, shift = dual_mixture(program, gradient)
    return kept * gradient + (1 - kept) * program.targets - shift


def dual_value(program: DualTerms, dual: Tensor, slopes: Tensor) -> float:
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
