"""Preconditioned conjugate gradients: one system of many columns, or one matrix and many shifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class ShiftedSystems:
    """(A + s I) X = B for several shifts s by preconditioned conjugate gradients, side by side.

    Every product with A serves all systems that are not finished.

    Args:
        product: X (m, c) -> A X.
        precondition: R (m, c), shifts (c,) -> approximately (A + s I)^-1 R, column by column.
        right: B, (m, k).
        shifts: the values s.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        precondition: Callable[[Tensor, Tensor], Tensor],
        right: Tensor,
        shifts: Sequence[float],
    ) -> None:
        self._product = product
        self._precondition = precondition
        self._right = right
        self._shifts = right.new_tensor(shifts)

    def solve(
        self,
        enough: Callable[[int, Tensor, Tensor], bool],
        max_iterations: int,
        start: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """Iterate until every system has had enough.

        Args:
            enough: index of a shift, X and B - (A + s I) X, both (m, k), to whether X will do;
                asked before every iteration.
            max_iterations: products at most.
            start: first X of every system, (m, len(shifts), k), whose residual takes one of the
                products; zero by default.

        Returns:
            solutions (len(shifts), m, k) and the number of products.
        """
        m, k = self._right.shape
        solutions = self._right.new_zeros(len(self._shifts), m, k)
        alive = torch.arange(len(self._shifts))
        x, used = self._right.new_zeros(m, len(alive), k), 0
        residual = self._right[:, None].repeat(1, len(alive), 1)
        if start is not None:
            x, used = start.clone(), 1
            residual -= self._product(x.flatten(1)).view_as(x) + self._shifts[:, None] * x
        direction, inner = torch.zeros_like(x), torch.ones_like(x[0])
        tiny = torch.finfo(x.dtype).tiny
        while True:
            last = used >= max_iterations
            going = [
                not enough(int(j), x[:, i], residual[:, i]) and not last
                for i, j in enumerate(alive)
            ]
            for i, j in enumerate(alive):
                if not going[i]:
                    solutions[j] = x[:, i]
            if not any(going):
                break
            if not all(going):
                alive = alive[going]
                x, residual, direction = (t[:, going] for t in (x, residual, direction))
                inner = inner[going]
            shifts = self._shifts[alive].repeat_interleave(k)
            flat = residual.reshape(m, -1)
            improved = self._precondition(flat, shifts).view_as(x)
            before, inner = inner, (residual * improved).sum(0)
            direction = improved + direction * (inner / before.clamp_min(tiny))
            flat = direction.reshape(m, -1)
            image = (self._product(flat) + flat * shifts).view_as(x)
            step = inner / (direction * image).sum(0).clamp_min(tiny)
            x += step * direction
            residual -= step * image
            used += 1
        return solutions, used
