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
) -> Program:
    """A program of n images with two patches of three numbers per cell, three gates, 2 classes."""
    rng = torch.Generator().manual_seed(seed)
    patches = torch.randn(n, cells, 2, 3, generator=rng, dtype=torch.float64) / 2
    gates = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    labels = torch.randint(2, (n,), generator=rng)
    targets = torch.nn.functional.one_hot(labels, 2).double()
    return Program(patches, gates, targets, beta, loss, regulariser, formulation, intercept)


def oracle_optimum(program: Program) -> float:
    """The optimum of a program by an interior-point method that this package has no part in."""
    k, cells, g, d = program.shape
    patches, gates = program.patches.numpy(), program.gates.numpy()
    n, targets = len(patches), program.targets.numpy()
    on = patches @ gates.T >= 0
    phi = np.einsum("ncqg,ncqd->ncgd", on, patches)
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
            sign = 2.0 * on[:, a, :, i].reshape(-1) - 1
            constraints.append(cp.multiply(sign, patches[:, a].reshape(-1, d) @ v) >= 0)
    if program.loss == "squared":
        loss = cp.sum_squares(scores - targets) / 2
    else:
        rows = [cp.log_sum_exp(scores[r]) - targets[r] @ scores[r] for r in range(n)]
        loss = sum(rows)
    problem = cp.Problem(
        cp.Minimize(loss / n + program.beta * _penalty(program, columns)), constraints
    )
    problem.solve(cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(problem.value)


def _penalty(program: Program, columns: dict[tuple[int, ...], cp.Variable]) -> cp.Expression:
    if program.regulariser == "l2":
        return sum(cp.sum_squares(v) for v in columns.values()) / 2
    if program.regulariser == "group":
        return sum(cp.norm(v) for v in columns.values())
    by_gate = [
        [v for (*_, i), v in columns.items() if i == gate] for gate in range(len(program.gates))
    ]
    return sum(cp.normNuc(cp.vstack(vectors)) for vectors in by_gate)
