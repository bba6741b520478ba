"""One planted problem for all solvers, and float64 measures of anybody's solution of it.

    gated  minimise (1/2) |sum_i D_i X v_i - y|^2 + beta sum_i |v_i|
    ReLU   the same with v_i - w_i, both signs penalised, and (2 D_i - 1) X v_i >= 0, also for w_i

n = 1000 Gaussian rows of d = 50, 100 Gaussian gates, a teacher of ten ReLU neurons plus noise,
beta = 0.001 n, one output, no intercept; D_i = 1[X a_i >= 0].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def planted_problem(n: int = 1000, d: int = 50, gates: int = 100, seed: int = 0) -> dict[str, Any]:
    """X (n, d), y (n,), gates (d, g) and beta, in the scale of sums."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    teacher = rng.standard_normal((d, 10)) / np.sqrt(d)
    y = np.maximum(x @ teacher, 0) @ rng.standard_normal(10) / np.sqrt(10)
    y = y - y.mean() + 0.1 * rng.standard_normal(n)
    return {"X": x, "y": y, "G": rng.standard_normal((d, gates)), "beta": 1e-3 * n}


def gated_measures(problem: dict[str, Any], weights: Array, gates: Array) -> dict[str, float]:
    """Objective and relative duality gap of weights (d, g) for gates (d, g)."""
    x, y, beta = problem["X"], problem["y"], problem["beta"]
    on = (x @ gates >= 0).astype(float)
    residual = y - np.einsum("nd,dp,np->n", x, weights, on, optimize=True)
    objective = 0.5 * residual @ residual + beta * np.linalg.norm(weights, axis=0).sum()
    largest = np.linalg.norm(x.T @ (on * residual[:, None]), axis=0).max()
    scale = min(residual @ y / (residual @ residual), beta / largest)
    dual = scale * residual @ y - 0.5 * scale**2 * residual @ residual
    return {"objective": objective, "relative_gap": (objective - dual) / objective}


def relu_measures(problem: dict[str, Any], pair: Array, gates: Array) -> dict[str, float]:
    """Objective and violation of V and W (2, d, g), and the objective of the ReLU network."""
    x, y, beta = problem["X"], problem["y"], problem["beta"]
    on = (x @ gates >= 0).astype(float)
    linear = np.einsum("nd,dp,np->n", x, pair[0] - pair[1], on, optimize=True)
    penalty = beta * np.linalg.norm(pair, axis=1).sum()
    responses = np.einsum("nd,sdp->snp", x, pair, optimize=True)
    network = np.maximum(responses, 0).sum(2)
    worst = max(0.0, -float(((2 * on - 1) * responses).min()))
    return {
        "objective": 0.5 * float(np.square(linear - y).sum()) + penalty,
        "network_objective": 0.5 * float(np.square(network[0] - network[1] - y).sum()) + penalty,
        "relative_violation": worst / float(np.abs(responses).max()),
    }
