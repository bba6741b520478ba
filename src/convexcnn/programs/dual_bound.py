"""Lower bounds of (G) and (R) in float64, by code that shares nothing with any solver.

For every L (n, k) whose columns sum to zero (only if there is an intercept),

    -(1/n) loss*(-L) - beta R*(Phi' L / (n beta))

is at most the optimum of (G). The negative gradient of the loss at a solution is such an L; it is
scaled by the t that makes the bound largest. In (R), Phi_i' l_c is replaced by its projection on
the cone of gate i, whose norm any multipliers mu >= 0 bound: |P_K(z)| <= |z + C' mu|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from convexcnn.programs.certificate import Certificate

Blocks = Callable[[], Iterable[Tensor]]
"""Gives the rows of Phi in blocks (b, cells g d) of float64, as often as it is called."""


def certify_gated(
    blocks: Blocks,
    targets: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    beta: float,
    loss: str,
    regulariser: str,
    intercept: bool = True,
) -> Certificate:
    """Bound the distance of a solution of (G) from the optimum over its gates.

    Args:
        blocks: the rows of Phi; walked through twice.
        targets: Y, (n, k).
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        beta: weight of the regulariser, > 0.
        loss: ``squared`` or ``cross_entropy``.
        regulariser: ``l2``, ``group`` or ``nuclear``.
        intercept: whether b is a variable; otherwise it has to be zero.

    Returns:
        The certificate.
    """
    weights, bias, targets = weights.double(), bias.double(), targets.double()
    flat = weights.flatten(1)
    scores = torch.cat([phi @ flat.T for phi in blocks()]) + bias
    n = len(targets)
    primal = loss_total(loss, scores, targets) / n + beta * penalty(regulariser, weights)
    dual_point = dual_candidate(loss, scores, targets, intercept)
    pulled = torch.zeros_like(flat)
    start = 0
    for phi in blocks():
        pulled += dual_point[start : start + len(phi)].T @ phi
        start += len(phi)
    dual = best_bound(loss, regulariser, dual_point, targets, pulled.view_as(weights), beta)
    return certificate_of(
        f"(1/n) {loss} loss + beta {regulariser} over gated ReLU features (G)",
        f"optimal among networks with these {weights.shape[2]} gates",
        primal,
        dual,
    )


def certificate_of(program: str, scope: str, primal: float, dual: float) -> Certificate:
    gap = primal - dual
    return Certificate(program, scope, primal, dual, gap, gap / primal if primal else 0.0)


def dual_candidate(loss: str, scores: Tensor, targets: Tensor, intercept: bool) -> Tensor:
    """The negative gradient of the loss, moved until its columns sum to zero if they must.

    For cross-entropy, L = Y - P with rows of P in the simplex; P is mixed with one fixed
    distribution, (1 - s) P + s q, with the smallest s for which that can be done.
    """
    if loss == "squared":
        residual = targets - scores
        return residual - residual.mean(0) if intercept else residual
    chances = torch.softmax(scores, 1)
    if intercept:
        have, want = chances.mean(0), targets.mean(0)
        share = float((1 - want / have).max().clamp(0, 1))
        if share:
            chances = (1 - share) * chances + (want - (1 - share) * have)
        # What is left is rounding: at most 1e-16 per class.
    return targets - chances


def best_bound(
    loss: str, regulariser: str, dual_point: Tensor, targets: Tensor, pulled: Tensor, beta: float
) -> float:
    """The best dual value over the multiples t L of a dual point.

    Where classes fall apart, with squared loss and no nuclear norm, each has a t of its own.

    Args:
        loss: name of the loss.
        regulariser: name of the regulariser.
        dual_point: L, (n, k).
        targets: Y, (n, k).
        pulled: Phi' L as (k, cells, g, d), or with a leading axis of 2 for the two signs of (R).
        beta: weight of the regulariser.
    """
    n, k = targets.shape
    if k > 1 and loss == "squared" and regulariser != "nuclear":
        columns = [slice(c, c + 1) for c in range(k)]
        return sum(
            best_bound(
                loss, regulariser, dual_point[:, c], targets[:, c], pulled[..., c, :, :, :], beta
            )
            for c in columns
        )
    quadratic, limit = 0.0, float("inf")
    if regulariser == "l2":
        quadratic = float(pulled.square().sum()) / (2 * beta * n**2)
    else:
        size = float(_dual_norm(regulariser, pulled))
        limit = n * beta / size if size else limit
    if loss == "squared":
        linear = float((dual_point * targets).sum()) / n
        curvature = float(dual_point.square().sum()) / (2 * n) + quadratic
        scale = min(limit, linear / (2 * curvature)) if curvature else 0.0
        return scale * linear - scale**2 * curvature

    def value(scale: float) -> float:
        chances = targets - scale * dual_point
        return float(torch.special.entr(chances.clamp_min(0)).sum()) / n - scale**2 * quadratic

    return _concave_maximum(value, min(1.0, limit))


def _concave_maximum(value: Callable[[float], float], stop: float) -> float:
    """The largest value of a concave function on [0, stop] that golden section meets."""
    ratio = (5**0.5 - 1) / 2
    low, high = 0.0, stop
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = value(left), value(right)
    best = max(value(stop), at_left, at_right)
    for _ in range(50):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = value(right)
        best = max(best, at_left, at_right)
    return best


def loss_total(loss: str, scores: Tensor, targets: Tensor) -> float:
    """The loss called ``loss``, summed over images and classes."""
    if loss == "squared":
        return 0.5 * float((scores - targets).square().sum())
    return float(-(targets * torch.log_softmax(scores, 1)).sum())


def penalty(regulariser: str, weights: Tensor) -> float:
    """R(V) for the regulariser of that name and weights (..., k, cells, g, d)."""
    if regulariser == "l2":
        return 0.5 * float(weights.square().sum())
    if regulariser == "group":
        return float(weights.square().sum(-1).sqrt().sum())
    return sum(float(torch.linalg.svdvals(v).sum()) for v in _by_gate(weights))


def _dual_norm(regulariser: str, slopes: Tensor) -> float:
    if regulariser == "group":
        return float(slopes.square().sum(-1).sqrt().max())
    return max(float(torch.linalg.matrix_norm(v, 2)) for v in _by_gate(slopes))


def _by_gate(weights: Tensor) -> list[Tensor]:
    """The matrix d x (k cells) of every gate."""
    return [weights[:, :, i].flatten(0, 1).T for i in range(weights.shape[2])]
