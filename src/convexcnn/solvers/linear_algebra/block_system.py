"""Newton systems of the convex programs: one small block per filter, coupled by the scores.

    (H + A' Q Q A) x = r,   H block diagonal (d x d per filter), A x the scores, Q Q the
    curvature of the loss (k x k per image)

is solved from  (I + Q A H^-1 A' Q)  of the size of the scores; with squared loss, Q = I and
classes fall apart. An intercept, which has no block, borders the system.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.errors import SettingError

ROW_BLOCKS = 4
SHIFTS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12)
"""Added to the diagonal, relative to its mean, until a factorisation succeeds."""


class BlockSystem:
    """The factorised system.

    Args:
        features: Phi, (n, G, d), with G = cells g.
        blocks: H, (s, k, G, d, d) symmetric positive definite; s is 2 for (R): V and -W.
        curvature: Q, (n, k, k), or None for the identity.
        intercept: whether scores have a free constant per class.
    """

    def __init__(
        self, features: Tensor, blocks: Tensor, curvature: Tensor | None, *, intercept: bool
    ) -> None:
        self.features = features
        self.curvature = curvature
        self.factors = stable_cholesky(blocks)
        self.k = blocks.shape[1]
        self.intercept = intercept
        kernels = torch.stack([self._kernel(c) for c in range(self.k)])
        n = len(features)
        if curvature is None:
            matrix = kernels
        else:
            full = torch.einsum("ice,eij,jef->icjf", curvature, kernels, curvature)
            matrix = full.reshape(1, n * self.k, n * self.k)
        matrix.diagonal(dim1=1, dim2=2).add_(1)
        self._factor = torch.linalg.cholesky(matrix)
        if intercept:
            self._ones = self._constant_scores()
            self._border = torch.linalg.pinv(
                torch.einsum("nka,nkb->ab", self._ones, self._whiten_columns(self._ones)),
                hermitian=True,
            )

    def solve(self, right: Tensor, right_bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (s, k, G, d) and the constants (k,) for right-hand sides of those shapes."""
        plain = self._divide(right)
        scores = self._root(self.scores(plain))
        bias = torch.zeros_like(right_bias)
        if self.intercept:
            seen = torch.einsum("nka,nk->a", self._ones, self._whiten(scores))
            bias = self._border @ (right_bias - seen)
            scores = scores + self._ones @ bias
        pulled = self.pull(self._root(self._whiten(scores)))
        return plain - self._divide(pulled), bias

    def scores(self, weights: Tensor) -> Tensor:
        """A x, (n, k)."""
        linear = weights[0] - weights[1] if len(weights) == 2 else weights[0]
        return self.features.flatten(1) @ linear.flatten(1).T

    def pull(self, scores: Tensor) -> Tensor:
        """A' f, (s, k, G, d)."""
        signs = self.factors.shape[0]
        pulled = (scores.T @ self.features.flatten(1)).view(self.factors.shape[1:4])
        return torch.stack([pulled, -pulled][:signs])

    def _kernel(self, column: int) -> Tensor:
        """sum over s, G of Phi_G H^-1 Phi_G' for one class, (n, n)."""
        eye = torch.eye(self.features.shape[2], dtype=self.features.dtype)
        inverse = torch.cholesky_solve(eye, self.factors[:, column]).sum(0)
        root = stable_cholesky(inverse)
        scaled = torch.einsum("ngd,gde->nge", self.features, root).flatten(1)
        n = len(scaled)
        kernel = scaled.new_empty(n, n)
        size = -(-n // ROW_BLOCKS)
        for start in range(0, n, size):  # the lower triangle, then its mirror image
            rows = slice(start, start + size)
            kernel[rows, : start + size] = scaled[rows] @ scaled[: start + size].T
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
            stacked = scores.T[..., None]
            return torch.cholesky_solve(stacked, self._factor)[..., 0].T
        flat = scores.reshape(1, -1, 1)
        return torch.cholesky_solve(flat, self._factor).view(scores.shape)

    def _whiten_columns(self, columns: Tensor) -> Tensor:
        return torch.stack([self._whiten(columns[..., a]) for a in range(columns.shape[2])], 2)

    def _constant_scores(self) -> Tensor:
        """Q times the scores of every unit constant, (n, k, k)."""
        if self.curvature is not None:
            return self.curvature
        eye = torch.eye(self.k, dtype=self.features.dtype)
        return eye.expand(len(self.features), -1, -1)


def stable_cholesky(matrices: Tensor) -> Tensor:
    """Cholesky factors of matrices (..., d, d) that rounding may have made indefinite.

    Raises:
        SettingError: if more than rounding is wrong.
    """
    size = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    for shift in SHIFTS:
        factors: Tensor
        factors, failed = torch.linalg.cholesky_ex(matrices + shift * size * eye)
        if not bool(failed.any()):
            return factors
    raise SettingError("a Newton system is not positive definite; raise beta or the tolerance")
