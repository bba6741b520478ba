"""With every activation pattern among the gates, (R) is the global optimum of (P)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from convexcnn.certificates.certify import certify
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import identity_transform
from convexcnn.programs.neurons import relu_neurons
from convexcnn.programs.program import Program
from convexcnn.solvers.interior_point import InteriorPoint

BETA = 0.01
NEURONS = 16


def every_gate(borders: np.ndarray) -> np.ndarray:
    """One gate for every pattern 1[x . a >= 0] of vectors x (m, 2) in the plane."""
    normals = np.arctan2(borders[:, 1], borders[:, 0])
    angles = np.sort(np.concatenate([normals + np.pi / 2, normals - np.pi / 2]) % (2 * np.pi))
    ends = np.append(angles[1:], angles[0] + 2 * np.pi)
    middles = (angles + ends) / 2
    return np.stack([np.cos(middles), np.sin(middles)], 1)


@pytest.fixture(scope="module", params=["average", "max"])
def program(request: pytest.FixtureRequest) -> Program:
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((6, 1, 2, 2)) / 2  # six images of two patches
    borders = patches.reshape(-1, 2)
    if request.param == "max":  # where one patch of an image overtakes the other
        borders = np.concatenate([borders, patches[:, 0, 0] - patches[:, 0, 1]])
    gates = every_gate(borders)
    assert len(gates) == 2 * len(borders)
    targets = rng.standard_normal((6, 1))
    return Program(
        *(torch.from_numpy(a) for a in (patches, gates, targets)),
        beta=BETA,
        formulation="relu",
        intercept=False,
        pooling=request.param,
    )


def non_convex(program: Program, flat: np.ndarray) -> tuple[float, np.ndarray]:
    """(P) of filters (m, 2) and head (m,), and its gradient."""
    patches = program.patches[:, 0].numpy()
    filters, head = flat[: 2 * NEURONS].reshape(-1, 2), flat[2 * NEURONS :]
    responses = np.maximum(patches @ filters.T, 0)  # (images, patches, neurons)
    seen = responses > 0
    if program.pooling == "max":
        seen &= responses == responses.max(1, keepdims=True)
    pooled = (responses * seen).sum(1)
    error = (pooled @ head - program.targets[:, 0].numpy()) / len(patches)
    by_filters = np.einsum("n,nqm,nqd,m->md", error, seen, patches, head)
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
    neurons = relu_neurons(optimum.weights, optimum.bias, program.pooling)
    expected = program.objective(optimum.weights, optimum.bias)
    assert neurons.objective(program) == pytest.approx(expected, rel=1e-7)


def test_torch_computes_the_convex_optimum(program: Program) -> None:
    """The recovered Conv2d - ReLU - pool - Linear attains the optimum of (R) on plain images."""
    optimum = InteriorPoint(1e-9).solve(program)
    neurons = relu_neurons(optimum.weights, optimum.bias, program.pooling)
    geometry = PatchGeometry((2, 1, 2), 1)  # an image of two pixels: patches of one pixel
    network = neurons.to_sequential(geometry, identity_transform(2)).double()
    scale = 2 if program.pooling == "average" else 1  # Program has its patches divided by two
    pixels = scale * program.patches[:, 0].transpose(1, 2)[:, :, None]
    with torch.no_grad():
        error = network(pixels) - program.targets
    head, conv = network[4].weight.detach(), network[0].weight.detach()
    squares = float(head.square().sum() + conv.square().sum())
    objective = 0.5 * float(error.square().sum()) / len(error) + 0.5 * BETA * squares
    expected = program.objective(optimum.weights, optimum.bias)
    assert objective == pytest.approx(expected, rel=1e-5)
