"""Small random programs, and their optimum by cvxpy and clarabel: the oracle of solver tests."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import torch

from convexcnn.programs.program import Program


def tiny_program(
    formulation: str = "gated",
    regulariser: str = "group",
    loss: str = "squared",
    *,
    cells: int = 1,
    intercept: bool = True,
    n: int = 14,
    beta: float = 0.03,
    seed: int = 0,
    pooling: str = "average",
) -> Program:
    """A program of n images with a few patches of three numbers per cell, three gates, 2 classes.

    Two patches for average pooling; three for max pooling, in the last cell two and a place
    without a patch.
    """
    rng = torch.Generator().manual_seed(seed)
    per_cell = 2 if pooling == "average" else 3
    patches = torch.randn(n, cells, per_cell, 3, generator=rng, dtype=torch.float64) / 2
    if pooling == "max":
        patches[:, -1, 2] = 0
    gates = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    labels = torch.randint(2, (n,), generator=rng)
    targets = torch.nn.functional.one_hot(labels, 2).double()
    return Program(
        patches, gates, targets, beta, loss, regulariser, formulation, intercept, pooling
    )


def oracle_optimum(program: Program) -> float:
    """The optimum of a program by an interior-point method that this package has no part in."""
    k, cells, g, d = program.shape
    patches, gates = program.patches.numpy(), program.gates.numpy()
    n, targets = len(patches), program.targets.numpy()
    phi = np.array(
        [[[oracle_feature(x, a, program.pooling) for a in gates] for x in i] for i in patches]
    )
    signs = (1,) if program.formulation == "gated" else (1, -1)
    columns = {
        (s, c, a, i): cp.Variable(d)
        for s in signs
        for c in range(k)
        for a in range(cells)
        for i in range(g)
    }
    bias = cp.Variable(k)
    scores = cp.vstack(
        [
            sum(phi[:, a, i] @ (s * v) for (s, b, a, i), v in columns.items() if b == c) + bias[c]
            for c in range(k)
        ]
    ).T
    constraints = [] if program.intercept else [bias == 0]
    if program.formulation == "relu":
        for (_, _, a, i), v in columns.items():
            rows = [oracle_rows(x, gates[i], program.pooling) for x in patches[:, a]]
            constraints.append(np.concatenate(rows) @ v >= 0)
    if program.loss == "squared":
        loss = cp.sum_squares(scores - targets) / 2
    else:
        loss = cp.sum(cp.log_sum_exp(scores, axis=1)) - cp.sum(cp.multiply(targets, scores))
    problem = cp.Problem(
        cp.Minimize(loss / n + program.beta * _penalty(program, columns)), constraints
    )
    problem.solve(cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(problem.value)


def oracle_feature(patches: np.ndarray, gate: np.ndarray, pooling: str) -> np.ndarray:
    """What a gate (d,) hands on of the patches (q, d) of one cell."""
    if pooling == "average":
        return sum((x for x in patches if x @ gate >= 0), np.zeros(len(gate)))
    best = max((x for x in patches if x.any()), key=lambda x: x @ gate)
    return best if best @ gate >= 0 else 0 * best


def oracle_rows(patches: np.ndarray, gate: np.ndarray, pooling: str) -> np.ndarray:
    """Rows c with c . v >= 0 for a filter v that responds to one cell (q, d) as its gate does."""
    if pooling == "average":
        return np.array([x if x @ gate >= 0 else -x for x in patches])
    present = [x for x in patches if x.any()]
    best = max(present, key=lambda x: x @ gate)
    if best @ gate < 0:
        return -np.array(present)
    return np.array([best, *(best - x for x in present if x is not best)])


def _penalty(program: Program, columns: dict[tuple[int, ...], cp.Variable]) -> cp.Expression:
    if program.regulariser == "l2":
        return sum(cp.sum_squares(v) for v in columns.values()) / 2
    if program.regulariser == "group":
        return sum(cp.norm(v) for v in columns.values())
    by_gate = [
        [v for (*_, i), v in columns.items() if i == gate] for gate in range(len(program.gates))
    ]
    return sum(cp.normNuc(cp.vstack(vectors)) for vectors in by_gate)
