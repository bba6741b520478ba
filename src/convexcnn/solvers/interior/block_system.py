"""Newton systems of the convex programs: one small block per filter, coupled by the scores.

    (H + A' Q Q A) x = r,   H block diagonal (d x d per filter), A x the scores, Q Q the
    curvature of the loss (k x k per image)

is solved from  (I + Q A H^-1 A' Q)  of the size of the scores; with squared loss, Q = I and
classes fall apart. An intercept, which has no block, borders the system.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.program import Program
from convexcnn.solvers.linear_algebra.pseudo_inverse import pseudo_inverse

ROW_BLOCKS = 6
SHIFTS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12)
"""Added to the diagonal, relative to its mean, until a factorisation succeeds."""


class Features:
    """Phi of a program, (n, G, d), with G = cells g.

    Where cells have one patch each, Phi is that patch times a gate's bit, and a product with it
    reads the patches and the bits, d times fewer numbers.
    """

    def __init__(self, program: Program) -> None:
        _, cells, g, d = program.shape
        self.values = program.features.view(-1, cells * g, d)
        self._is_factored = program.patches.shape[2] == 1
        if self._is_factored:
            self._patches = program.patches[:, :, 0].transpose(0, 1).contiguous()
            self._bits = program.on[:, :, 0].permute(1, 2, 0)[:, None].contiguous()

    @cached_property
    def rounded(self) -> Tensor:
        """(G, d, n), float32."""
        return self.values.permute(1, 2, 0).float().contiguous()

    def columns(self, *, rounded: bool) -> Tensor:
        """Phi', (G, d, n)."""
        return self.rounded if rounded else self.values.permute(1, 2, 0)

    def scores(self, weights: Tensor, *, rounded: bool = False) -> Tensor:
        """A x, (n, k), of weights (s, k, G, d)."""
        linear = weights[0] - weights[1] if len(weights) == 2 else weights[0]
        if self._is_factored:
            k, cells, d = len(linear), len(self._patches), linear.shape[2]
            by_cell = linear.reshape(k, cells, -1, d).transpose(0, 1).reshape(cells, -1, d)
            responses = by_cell @ self._patches.transpose(1, 2)
            by_gate = responses.view(cells, k, -1, responses.shape[2]) * self._bits
            return by_gate.sum((0, 2)).T
        if rounded:
            return (linear.flatten(1).float() @ self.rounded.flatten(0, 1)).T.to(weights.dtype)
        return self.values.flatten(1) @ linear.flatten(1).T

    def pull(self, scores: Tensor, signs: int, *, rounded: bool = False) -> Tensor:
        """A' f, (s, k, G, d)."""
        if self._is_factored:
            by_gate = scores.T[:, None] * self._bits  # (cells, k, g, n)
            cells, k, g, n = by_gate.shape
            pulled = by_gate.reshape(cells, k * g, n) @ self._patches
            pulled = pulled.view(cells, k, g, -1).transpose(0, 1).flatten(1, 2)
        elif rounded:
            pulled = (scores.T.float() @ self.rounded.flatten(0, 1).T).to(scores.dtype)
        else:
            pulled = scores.T @ self.values.flatten(1)
        pulled = pulled.reshape(-1, *self.values.shape[1:])
        return torch.stack([pulled, -pulled][:signs])


class BlockSystem:
    """The factorised system.

    Args:
        features: Phi, with G = cells g.
        blocks: H, (s, k, G, d, d) symmetric positive definite; s is 2 for (R): V and -W.
        curvature: Q, (n, k, k), or None for the identity.
        intercept: whether scores have a free constant per class.
        rounded: form and factorise the system of the size of the scores in float32.

    Raises:
        SettingError: if a factorisation fails.
    """

    def __init__(
        self,
        features: Features,
        blocks: Tensor,
        curvature: Tensor | None,
        *,
        intercept: bool,
        rounded: bool = False,
    ) -> None:
        self.features, self.rounded = features, rounded
        self.curvature = curvature
        self.factors = stable_cholesky(blocks)
        self.k = blocks.shape[1]
        self.intercept = intercept
        kernels = torch.stack([self._kernel(c) for c in range(self.k)])
        n = kernels.shape[-1]
        if curvature is None:
            matrix = kernels
        else:
            root = curvature.to(kernels.dtype)
            full = torch.einsum("ice,eij,jef->icjf", root, kernels, root)
            matrix = full.reshape(1, n * self.k, n * self.k)
        matrix.diagonal(dim1=1, dim2=2).add_(1)
        self._factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed.any()):
            raise SettingError("a Newton system is not positive definite; raise the tolerance")
        if intercept:
            self._ones = self._constant_scores(n)
            self._border = pseudo_inverse(
                torch.einsum("nka,nkb->ab", self._ones, self._whiten_columns(self._ones))
            )

    def solve(self, right: Tensor, right_bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (s, k, G, d) and the constants (k,) for right-hand sides of those shapes."""
        plain = self._divide(right)
        scores = self._root(self.features.scores(plain, rounded=self.rounded))
        bias = torch.zeros_like(right_bias)
        if self.intercept:
            seen = torch.einsum("nka,nk->a", self._ones, self._whiten(scores))
            bias = self._border @ (right_bias - seen)
            scores = scores + self._ones @ bias
        pulled = self.features.pull(
            self._root(self._whiten(scores)), len(self.factors), rounded=self.rounded
        )
        return plain - self._divide(pulled), bias

    def curve(self, scores: Tensor) -> Tensor:
        """Q Q f for scores (n, k)."""
        return self._root(self._root(scores))

    def _kernel(self, column: int) -> Tensor:
        """sum over s, G of Phi_G H^-1 Phi_G' for one class, (n, n)."""
        inverse = torch.cholesky_inverse(self.factors[:, column]).sum(0)
        columns = self.features.columns(rounded=self.rounded)
        root = stable_cholesky(inverse).to(columns.dtype)
        scaled = (root.transpose(1, 2) @ columns).flatten(0, 1)
        n = scaled.shape[1]
        kernel = scaled.new_empty(n, n)
        size = -(-n // ROW_BLOCKS)
        for start in range(0, n, size):
            rows = slice(start, start + size)
            kernel[rows, : start + size] = scaled[:, rows].T @ scaled[:, : start + size]
            if self.curvature is not None:  # a factorisation reads the lower triangle only
                kernel[:start, rows] = kernel[rows, :start].T
        return kernel

    def _divide(self, right: Tensor) -> Tensor:
        solved: Tensor = torch.cholesky_solve(right[..., None], self.factors)[..., 0]
        return solved

    def _root(self, scores: Tensor) -> Tensor:
        """Q f."""
        if self.curvature is None:
            return scores
        return torch.einsum("nkc,nc->nk", self.curvature, scores)

    def _whiten(self, scores: Tensor) -> Tensor:
        """(I + Q A H^-1 A' Q)^-1 f for scores (n, k)."""
        if self.curvature is None:
            stacked = scores.T[..., None].to(self._factor.dtype)
            return torch.cholesky_solve(stacked, self._factor)[..., 0].T.to(scores.dtype)
        flat = scores.reshape(1, -1, 1).to(self._factor.dtype)
        return torch.cholesky_solve(flat, self._factor).view(scores.shape).to(scores.dtype)

    def _whiten_columns(self, columns: Tensor) -> Tensor:
        return torch.stack([self._whiten(columns[..., a]) for a in range(columns.shape[2])], 2)

    def _constant_scores(self, n: int) -> Tensor:
        """Q times the scores of every unit constant, (n, k, k)."""
        if self.curvature is not None:
            return self.curvature
        return torch.eye(self.k, dtype=self.factors.dtype).expand(n, -1, -1)


def stable_cholesky(matrices: Tensor) -> Tensor:
    """Cholesky factors of matrices (..., d, d) that rounding may have made indefinite.

    Raises:
        SettingError: if more than rounding is wrong.
    """
    size = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    for shift in SHIFTS:
        factors: Tensor
        shifted = matrices + shift * size * eye if shift else matrices
        factors, failed = torch.linalg.cholesky_ex(shifted)
        if not bool(failed.any()):
            return factors
    raise SettingError("a Newton system is not positive definite; raise beta or the tolerance")
