"""The convex combination of heads: a small program of its own, solved exactly."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


def best_combination(scores: Tensor, targets: Tensor) -> Tensor:
    """Weigh heads by the best squared loss: the exact optimum over the simplex.

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
