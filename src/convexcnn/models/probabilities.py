"""Scores to probabilities by one temperature, fitted on held-out images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax


def probabilities(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return softmax(scores / temperature), (n, k)."""
    result: NDArray[np.float64] = softmax(scores.astype(np.float64) / temperature, axis=1)
    return result


def fit_temperature(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Return the temperature that minimises the log-loss of held-out scores.

    Guo et al. 2017, *On Calibration of Modern Neural Networks*.

    Args:
        scores: (n, k).
        labels: (n,) integers in 0..k-1.
        weights: (n,) of the images; None where all weigh one.
    """
    rows = np.arange(len(labels))
    exact = scores.astype(np.float64)

    def log_loss(log_temperature: float) -> float:
        each = log_softmax(exact / np.exp(log_temperature), axis=1)[rows, labels]
        return -float(np.average(each, weights=weights))

    best = minimize_scalar(log_loss, bounds=(-6.0, 4.0), method="bounded")
    return float(np.exp(best.x))
