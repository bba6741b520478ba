"""Quadratic programs with x >= 0: the inner problem of Newton's method on kernel weights."""

from __future__ import annotations

import torch
from torch import Tensor

PATIENCE = 10
TURNS = 50
"""For every variable, at most: what rounding has made indefinite would go round and round."""


def bounded_minimum(matrix: Tensor, linear: Tensor, free: Tensor) -> Tensor:
    """minimise (1/2) x' A x + q' x over x >= 0, by block principal pivoting.

    Guess which x are positive, solve for them, and swap every index whose sign is wrong; where
    that makes no progress, swap only the last one, which cannot cycle (Judice & Pires 1994).

    Args:
        matrix: A, (m, m) symmetric positive definite.
        linear: q, (m,).
        free: (m,) bool, a first guess of which x are positive.

    Returns:
        x, (m,); what there is of it after ``TURNS`` turns for every variable.
    """
    scale = matrix.diagonal().sqrt()
    a, q = matrix / torch.outer(scale, scale), linear / scale
    slack = 1e-13 * float(q.abs().max())
    free, fewest, patience = free.clone(), len(q) + 1, PATIENCE
    for _ in range(TURNS * (1 + len(q))):
        x = torch.zeros_like(q)
        if free.any():
            system = a[free][:, free]
            x[free] = -torch.linalg.solve(system, q[free])
        slope = a @ x + q
        wrong = torch.where(free, x < 0, slope < -slack)
        count = int(wrong.sum())
        if not count:
            return x / scale
        if count < fewest:
            fewest, patience = count, PATIENCE
        elif patience:
            patience -= 1
        else:
            last = wrong.nonzero()[-1]
            wrong = torch.zeros_like(wrong)
            wrong[last] = True
        free ^= wrong
    return x.clamp_min(0) / scale
