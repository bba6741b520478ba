"""With every activation pattern among the gates, (R) is the global optimum of (P)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from convexcnn.programs.certify import certify
from convexcnn.programs.neurons import relu_neurons
from convexcnn.programs.program import Program
from convexcnn.solvers.interior_point import InteriorPoint

BETA = 0.01
NEURONS = 16


def every_gate(patches: np.ndarray) -> np.ndarray:
    """One gate for every pattern 1[x . a >= 0] that patches in the plane allow."""
    normals = np.arctan2(patches[:, 1], patches[:, 0])
    borders = np.sort(np.concatenate([normals + np.pi / 2, normals - np.pi / 2]) % (2 * np.pi))
    ends = np.append(borders[1:], borders[0] + 2 * np.pi)
    middles = (borders + ends) / 2
    return np.stack([np.cos(middles), np.sin(middles)], 1)


@pytest.fixture(scope="module")
def program() -> Program:
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((6, 1, 2, 2)) / 2  # six images of two patches
    gates = every_gate(patches.reshape(-1, 2))
    assert len(gates) == 24
    targets = rng.standard_normal((6, 1))
    return Program(
        *(torch.from_numpy(a) for a in (patches, gates, targets)),
        beta=BETA,
        formulation="relu",
        intercept=False,
    )


def non_convex(program: Program, flat: np.ndarray) -> tuple[float, np.ndarray]:
    """(P) of filters (m, 2) and head (m,), and its gradient."""
    patches = program.patches[:, 0].numpy()
    filters, head = flat[: 2 * NEURONS].reshape(-1, 2), flat[2 * NEURONS :]
    responses = patches @ filters.T
    pooled = np.maximum(responses, 0).sum(1)
    error = (pooled @ head - program.targets[:, 0].numpy()) / len(patches)
    by_filters = np.einsum("n,nqm,nqd,m->md", error, responses > 0, patches, head)
    value = 0.5 * len(patches) * error @ error + 0.5 * BETA * flat @ flat
    gradient = np.concatenate([by_filters.ravel(), pooled.T @ error]) + BETA * flat
    return float(value), gradient


def test_descent_on_the_network_never_goes_below_the_convex_optimum(program: Program) -> None:
    optimum = InteriorPoint(1e-9).solve(program)
    bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
    assert bound.relative_gap < 1e-7
    rng = np.random.default_rng(1)
    found = []
    for _ in range(50):
        start = rng.standard_normal(3 * NEURONS)
        result = minimize(
            lambda flat: non_convex(program, flat), start, jac=True, method="L-BFGS-B"
        )
        found.append(result.fun)
    assert min(found) >= bound.dual
    assert min(found) <= bound.primal * 1.01  # and some restart comes close: the bound is tight


def test_recovered_network_attains_the_convex_optimum(program: Program) -> None:
    optimum = InteriorPoint(1e-9).solve(program)
    neurons = relu_neurons(optimum.weights, optimum.bias)
    expected = program.objective(optimum.weights, optimum.bias)
    assert neurons.objective(program) == pytest.approx(expected, rel=1e-7)
