"""Lower bounds of (G) and (R) in float64, by code that shares nothing with any solver.

For every L (n, k) whose columns sum to zero (only if there is an intercept),

    -(1/n) loss*(-L) - beta R*(Phi' L / (n beta))

is at most the optimum of (G). The negative gradient of the loss at a solution is such an L; it is
scaled by the t >= 0 that makes the bound largest. In (R), Phi_i' l_c is replaced by its projection
on the cone of gate i, whose norm any multipliers mu >= 0 bound: |P_K(z)| <= |z + C' mu|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.certificates.certificate import Certificate, these
from convexcnn.certificates.growing_rows import GrowingRows
from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import SettingError

ROUNDING = 1e-6
"""Part of a primal value by which rounding may lift a dual one above it."""

Rows = Iterable[tuple[Tensor, Tensor]]
"""Blocks of the rows of Phi (b, cells g d) with their targets (b, k), walked through once."""


@dataclass(frozen=True)
class GatedEvidence:
    """A certificate of (G), and what it was read from.

    Args:
        certificate: the bound.
        scores: F, (n, k).
        targets: Y, (n, k).
        dual_point: L, (n, k), before it was scaled: the negative gradient of the loss.
        slopes: Phi' L / n, (k, cells, g, d).
    """

    certificate: Certificate
    scores: Tensor
    targets: Tensor
    dual_point: Tensor
    slopes: Tensor


def certify_gated(
    rows: Rows,
    weights: Tensor,
    bias: Tensor,
    *,
    beta: float,
    loss: str,
    regulariser: str,
    intercept: bool = True,
    roots: Tensor | None = None,
    processes: Processes = ALONE,
) -> GatedEvidence:
    """Bound the distance of a solution of (G) from the optimum over its gates.

    One pass: L = N + s (Y - N) - 1 c' with the negative gradient N, where s and c are known only at
    the end, so Phi' N, Phi' Y and Phi' 1 are summed apart.

    Args:
        rows: Phi and targets, block by block.
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        beta: weight of the regulariser, > 0.
        loss: ``squared`` or ``cross_entropy``.
        regulariser: ``l2``, ``group`` or ``nuclear``.
        intercept: whether b is a variable; otherwise it has to be zero.
        roots: (n,) square roots of the weights of images, squared loss only: phi, y and the 1 that
            b is multiplied with are scaled by them. None where all weigh one.
        processes: that share the rows; each gives its own.

    Returns:
        The certificate, with the scores and the dual point, both scaled, of the rows given.

    Raises:
        SettingError: if beta is not positive: the bound needs a regulariser.
    """
    if not beta > 0:
        raise SettingError("a certificate needs beta > 0; train with a positive beta")
    weights, bias = weights.double(), bias.double()
    flat = weights.flatten(1)
    scores, targets = GrowingRows(), GrowingRows()
    pulled, pulled_targets = torch.zeros_like(flat), torch.zeros_like(flat)
    feature_sum, done = flat.new_zeros(flat.shape[1]), 0
    for phi, block_targets in rows:
        phi, y = phi.double(), block_targets.double()
        root = torch.ones_like(y[:, :1])
        if roots is not None:
            root = roots[done : done + len(y), None].double()
            phi, y = root * phi, root * y
        done += len(y)
        predicted = phi @ flat.T + root * bias
        scores.add(predicted)
        targets.add(y)
        pulled += negative_gradient(loss, predicted, y).T @ phi
        if intercept:
            feature_sum += (root * phi).sum(0)
        if intercept and loss == "cross_entropy":
            pulled_targets += y.T @ phi
    processes.add_up(pulled, pulled_targets, feature_sum)
    f, y = scores.rows, targets.rows
    n = processes.total(len(y))
    negative = negative_gradient(loss, f, y)
    share, shift = _feasible_mix(loss, negative, y, intercept, processes)
    if roots is not None and intercept:  # s' L = 0, and |s|^2 = n
        shift = roots.double() @ negative / n
        processes.add_up(shift)
    dual_point = negative + share * (y - negative) - _columns(shift, roots)
    pulled += share * (pulled_targets - pulled) - torch.outer(shift, feature_sum)
    slopes = pulled.view_as(weights)
    primal = processes.total(loss_total(loss, f, y)) / n + beta * penalty(regulariser, weights)
    certificate = certificate_of(
        f"(1/n) {loss} loss + beta {regulariser} over gated ReLU features (G)",
        f"optimal among networks with {these(weights.shape[2], 'gate')}",
        primal,
        best_bound(loss, regulariser, dual_point, y, slopes, beta, processes),
    )
    return GatedEvidence(certificate, f, y, dual_point, slopes / n)


def _columns(shift: Tensor, roots: Tensor | None) -> Tensor:
    return shift if roots is None else torch.outer(roots.double(), shift)


def certificate_of(program: str, scope: str, primal: float, dual: float) -> Certificate:
    """The certificate of two values; what lies above the primal one by more than rounding, or is
    no number, bounds nothing, and the gap is infinite."""
    if not dual <= primal + ROUNDING * abs(primal):
        dual = -math.inf
    gap = primal - dual
    return Certificate(program, scope, primal, dual, gap, gap / primal if primal else gap)


def negative_gradient(loss: str, scores: Tensor, targets: Tensor) -> Tensor:
    """N, minus the derivative of the summed loss by the scores, (n, k)."""
    predicted = scores if loss == "squared" else torch.softmax(scores, 1)
    return targets - predicted


def centred_residual(
    loss: str, scores: Tensor, targets: Tensor, intercept: bool, processes: Processes = ALONE
) -> Tensor:
    """N, less its mean if b moves along: what the slope of a further neuron is measured with."""
    negative = negative_gradient(loss, scores, targets)
    return negative - _mean(negative, processes) if intercept else negative


def _mean(rows: Tensor, processes: Processes) -> Tensor:
    """Mean of the rows of all processes."""
    total = rows.sum(0)
    processes.add_up(total)
    return total / processes.total(len(rows))


def dual_candidate(loss: str, scores: Tensor, targets: Tensor, intercept: bool) -> Tensor:
    """The negative gradient of the loss, moved until its columns sum to zero if they must."""
    negative = negative_gradient(loss, scores, targets)
    share, shift = _feasible_mix(loss, negative, targets, intercept)
    return negative + share * (targets - negative) - shift


def _feasible_mix(
    loss: str,
    negative: Tensor,
    targets: Tensor,
    intercept: bool,
    processes: Processes = ALONE,
) -> tuple[float, Tensor]:
    """s and c (k,) for which L = N + s (Y - N) - 1 c' is dual feasible.

    Squared loss: c is the mean of N. Cross-entropy: the rows of P = Y - N lie in the simplex; P is
    mixed with one fixed distribution, (1 - s) P + c, with the smallest s that makes its mean that
    of Y.
    """
    zero = negative.new_zeros(negative.shape[1])
    if not intercept:
        return 0.0, zero
    if loss == "squared":
        return 0.0, _mean(negative, processes)
    want = _mean(targets, processes)
    have = want - _mean(negative, processes)
    ratio = torch.where(want == have, 1.0, want / have)  # a class without images may have none
    share = float((1 - ratio).max().clamp(0, 1))
    # Without a share, what is left is rounding: at most 1e-16 per class.
    return share, (want - (1 - share) * have if share else zero)


def best_bound(
    loss: str,
    regulariser: str,
    dual_point: Tensor,
    targets: Tensor,
    pulled: Tensor,
    beta: float,
    processes: Processes = ALONE,
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
        processes: that share the rows of L and Y.
    """
    n, k = processes.total(len(targets)), targets.shape[1]
    if k > 1 and loss == "squared" and regulariser != "nuclear":
        columns = [slice(c, c + 1) for c in range(k)]
        return sum(
            best_bound(
                loss,
                regulariser,
                dual_point[:, c],
                targets[:, c],
                pulled[..., c, :, :, :],
                beta,
                processes,
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
        linear = processes.total(float((dual_point * targets).sum())) / n
        square = processes.total(float(dual_point.square().sum()))
        curvature = square / (2 * n) + quadratic
        # A negative multiple would have to be bounded from below as well; zero is one that may be.
        scale = max(0.0, min(limit, linear / (2 * curvature))) if curvature else 0.0
        return scale * linear - scale**2 * curvature

    def value(scale: float) -> float:
        chances = targets - scale * dual_point
        entropy = processes.total(float(torch.special.entr(chances.clamp_min(0)).sum()))
        return entropy / n - scale**2 * quadratic

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
