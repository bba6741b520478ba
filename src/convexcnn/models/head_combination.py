"""The convex combination of heads: a small convex program of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from torch import Tensor

from convexcnn.models.block_training import measure
from convexcnn.programs.losses import CrossEntropyLoss


def choose_heads(scores: Tensor, labels: NDArray[np.int64], loss: str) -> Tensor:
    """Return weights (B,) of the heads: all on the last one, or their best convex combination.

    Args:
        scores: (B, n, k) of held-out images.
        labels: (n,) theirs.
        loss: that the combination minimises.

    Returns:
        The combination, unless the last head alone classifies more images correctly.
    """
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), scores.shape[2])
    combined = best_combination(scores, targets, loss)
    last = torch.zeros_like(combined)
    last[-1] = 1
    together = torch.einsum("b,bnk->nk", combined.float(), scores)
    accuracies = [measure(found, labels, loss)["accuracy"] for found in (together, scores[-1])]
    return combined if accuracies[0] >= accuracies[1] else last


def combination_loss(losses: Sequence[str]) -> str:
    """The loss by which heads of these losses are weighed.

    Scores of cross-entropy are no estimates of one-hot targets, so that squared errors would leave
    out every head that was trained by it.
    """
    return "cross_entropy" if "cross_entropy" in losses else "squared"


def best_combination(scores: Tensor, targets: Tensor, loss: str) -> Tensor:
    """Weigh heads so that the loss of their combination is smallest on images none trained on.

    Args:
        scores: F, (B, n, k), of images that no head was trained on.
        targets: Y, (n, k), one-hot.
        loss: ``squared`` or ``cross_entropy``.

    Returns:
        w, (B,), float64, not negative, of sum one. With cross-entropy no other ones have a smaller
        loss when each are scaled by their best temperature; with squared loss, as they are.
    """
    return (
        _by_likelihood(scores, targets) if loss == "cross_entropy" else _by_squares(scores, targets)
    )


def _by_likelihood(scores: Tensor, targets: Tensor) -> Tensor:
    """minimise cross-entropy of sum_b w_b F_b over w >= 0; its scale is left to the temperature."""
    heads, truth = scores.double(), targets.double()
    loss, n = CrossEntropyLoss(), len(truth)

    def value_and_slope(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = torch.einsum("b,bnk->nk", torch.from_numpy(w), heads)
        slope = torch.einsum("bnk,nk->b", heads, loss.gradient(mixed, truth))
        return float(loss.value(mixed, truth)) / n, (slope / n).numpy()

    start = np.full(len(heads), 1 / len(heads))
    bounds = [(0.0, None)] * len(heads)
    found = minimize(value_and_slope, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    if not found.sum() > 0:
        found = start
    return torch.from_numpy(found / found.sum())


def _by_squares(scores: Tensor, targets: Tensor) -> Tensor:
    """The exact optimum of the squared loss over the simplex.

    minimise (1/2n) |sum_b w_b F_b - Y|^2  subject to  w >= 0, 1'w = 1

    With C = [F_b - Y]_b and 1'w = 1 the loss is |C w|^2 / 2n. Non-negative least squares on
    |C w|^2 + t (1'w - 1)^2 has a solution along the same ray for every t > 0, because both terms of
    a multiple s w depend on s alone; scaled to sum to one it is the optimum (Lawson & Hanson 1974).

    Args:
        scores: F, (B, n, k), of images that no head was trained on.
        targets: Y, (n, k), one-hot.

    Returns:
        w, (B,), float64.
    """
    errors = (scores.double() - targets.double()).flatten(1).T.cpu().numpy()
    triangle = np.linalg.qr(errors, mode="r")
    size = max(float(np.linalg.norm(triangle)), 1e-300) / errors.shape[1] ** 0.5
    rows = np.vstack([triangle / size, np.ones(errors.shape[1])])
    right = np.append(np.zeros(len(triangle)), 1.0)
    weights, _ = nnls(rows, right)
    return torch.from_numpy(weights / weights.sum())
