"""Algebra of many second-order cones {(t, v): t >= |v|} at once, with Nesterov-Todd scaling.

Points are (..., 1 + d) with t first. The formulas are those of Vandenberghe, *The CVXOPT linear
and quadratic cone program solvers* (2010), section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def determinant(point: Tensor) -> Tensor:
    """t^2 - |v|^2, (..., 1), positive inside the cone."""
    t = point[..., :1]
    norm = _norm(point[..., 1:])
    return (t - norm) * (t + norm)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Jordan product (u' v, u_0 v_1 + v_0 u_1)."""
    head = (left * right).sum(-1, keepdim=True)
    return torch.cat([head, left[..., :1] * right[..., 1:] + right[..., :1] * left[..., 1:]], -1)


def quotient(divisor: Tensor, point: Tensor) -> Tensor:
    """The x with divisor o x = point."""
    head, tail = divisor[..., :1], divisor[..., 1:]
    inner = (tail * point[..., 1:]).sum(-1, keepdim=True)
    first = (head * point[..., :1] - inner) / determinant(divisor)
    return torch.cat([first, (point[..., 1:] - first * tail) / head], -1)


def reciprocal(point: Tensor) -> Tensor:
    """The inverse of a point: (t, -v) / (t^2 - |v|^2)."""
    return _mirror(point) / determinant(point)


def clamp(point: Tensor, low: float, high: float) -> Tensor:
    """The point with its two eigenvalues t - |v| and t + |v| brought between two numbers."""
    head, tail = point[..., :1], point[..., 1:]
    norm = _norm(tail)
    small, large = (head - norm).clamp(low, high), (head + norm).clamp(low, high)
    length = 0.5 * (large - small)
    return torch.cat([0.5 * (small + large), length * tail / norm.clamp_min(1e-300)], -1)


def longest_step(point: Tensor, direction: Tensor) -> float:
    """The largest step that keeps point + step direction in every cone; inf without a limit."""
    scale = determinant(point).sqrt()
    unit = point / scale
    inner = (_mirror(unit) * direction).sum(-1, keepdim=True) / scale
    tail = (
        direction[..., 1:] / scale
        - (inner + direction[..., :1] / scale) / (unit[..., :1] + 1) * unit[..., 1:]
    )
    slope = float((_norm(tail) - inner).max())
    return 1 / slope if slope > 0 else float("inf")


@dataclass(frozen=True)
class Scaling:
    """W with W z = W^-1 s = lambda, for interior points s and z.

    Args:
        root: w, (..., 1 + d), with determinant 1; W = size (as a matrix of w).
        size: (..., 1).
    """

    root: Tensor
    size: Tensor

    @classmethod
    def of(cls, primal: Tensor, dual: Tensor) -> Scaling:
        """The scaling of interior points s and z."""
        s_size, z_size = determinant(primal), determinant(dual)
        s, z = primal / s_size.sqrt(), dual / z_size.sqrt()
        gamma = ((1 + (s * z).sum(-1, keepdim=True)) / 2).sqrt()
        return cls((s + _mirror(z)) / (2 * gamma), (s_size / z_size) ** 0.25)

    def times(self, point: Tensor) -> Tensor:
        """W x."""
        return self.size * self._apply(self.root, point)

    def divide(self, point: Tensor) -> Tensor:
        """W^-1 x."""
        return self._apply(_mirror(self.root), point) / self.size

    @staticmethod
    def _apply(root: Tensor, point: Tensor) -> Tensor:
        inner = (root * point).sum(-1, keepdim=True)
        tail = point[..., 1:] + (inner + point[..., :1]) / (1 + root[..., :1]) * root[..., 1:]
        return torch.cat([inner, tail], -1)

    def curvature(self) -> tuple[Tensor, Tensor, Tensor]:
        """W^-2 in blocks: tt (..., 1), tv (..., d), and vv (..., d, d) with t eliminated."""
        head, tail = self.root[..., :1], self.root[..., 1:]
        weight = self.size**-2
        tt = weight * (2 * head.square() - 1)
        rank_one = tail[..., :, None] * tail[..., None, :]
        shrink = (2 / (2 * head.square() - 1))[..., None]
        eye = torch.eye(tail.shape[-1], dtype=tail.dtype)
        return tt, -2 * weight * head * tail, weight[..., None] * (eye - shrink * rank_one)


def _mirror(point: Tensor) -> Tensor:
    return torch.cat([point[..., :1], -point[..., 1:]], -1)


def _norm(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return norms
