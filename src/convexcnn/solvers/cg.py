"""Preconditioned conjugate gradients for symmetric positive definite systems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> tuple[Tensor, float, int]:
    """Solve A X = B, every column by itself, with the products of all columns made together.

    Args:
        product: X (m, r) -> A X.
        right: B, (m, r).
        precondition: R (m, r) -> approximately A^-1 R, symmetric positive definite.
        start: first X; zero by default.
        tolerance: on the residual norm of every column, relative to |b|.
        max_iterations: products at most.

    Returns:
        X, the largest relative residual norm, and the number of iterations.
    """
    tiny = torch.finfo(right.dtype).tiny
    solution = torch.zeros_like(right) if start is None else start.clone()
    residual = right - product(solution) if start is not None else right.clone()
    scale = right.norm(dim=0).clamp_min(tiny)
    direction = torch.zeros_like(right)
    inner = torch.ones_like(scale)
    for iteration in range(max_iterations + 1):
        error = float((residual.norm(dim=0) / scale).max())
        if error <= tolerance or iteration == max_iterations:
            break
        improved = precondition(residual)
        inner, before = (residual * improved).sum(0), inner
        direction = improved + direction * (inner / before.clamp_min(tiny) if iteration else 0.0)
        image = product(direction)
        step = inner / (direction * image).sum(0).clamp_min(tiny)
        solution += step * direction
        residual -= step * image
    return solution, error, iteration
