"""Blocked Cholesky factorisation in place, and one factor for a whole path of shifts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexcnn.errors import SettingError

BLOCK = 1024

BAND = 4 * BLOCK
"""Columns of the trailing matrix that are updated at once."""


class CholeskyFactor:
    """A + shift I = L L', with L written over the lower triangle of A.

    Almost all the work is in products of large blocks, which run at the machine's full
    matrix-product rate; LAPACK's factorisation reaches half of it on some processors.

    Args:
        matrix: (m, m) symmetric positive semi-definite; only its lower triangle is read, and it is
            overwritten. What is left above the diagonal, less than BAND away from it, means
            nothing; what is further up is not touched.
        shift: added to the diagonal, > 0.

    Raises:
        SettingError: if the shifted matrix is not positive definite in its precision.
    """

    def __init__(self, matrix: Tensor, shift: float) -> None:
        self.lower = matrix
        self.shift = shift
        self._inverses: list[Tensor] = []
        self._factorise()

    def _factorise(self) -> None:
        a, size = self.lower, len(self.lower)
        a.diagonal().add_(self.shift)
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            pivot, info = torch.linalg.cholesky_ex(a[start:stop, start:stop])
            if int(info):
                raise SettingError(
                    f"the regularised matrix is not positive definite in {a.dtype}; "
                    f"choose a larger beta"
                )
            eye = torch.eye(stop - start, dtype=a.dtype, device=a.device)
            inverse = torch.linalg.solve_triangular(pivot, eye, upper=False)
            a[start:stop, start:stop] = pivot
            self._inverses.append(inverse)
            if stop == size:
                break
            panel = a[stop:, start:stop] @ inverse.T
            a[stop:, start:stop] = panel
            for left in range(stop, size, BAND):
                right = min(left + BAND, size)
                a[left:, left:right].addmm_(
                    panel[left - stop :], panel[left - stop : right - stop].T, alpha=-1
                )

    def leading(self, size: int) -> CholeskyFactor:
        """The factor of the leading (size, size) block: the leading block of L itself."""
        part = object.__new__(CholeskyFactor)
        part.lower = self.lower[:size, :size]
        part.shift = self.shift
        part._inverses = self._inverses[: -(-size // BLOCK)]
        if size % BLOCK:
            part._inverses = [
                *part._inverses[:-1],
                part._inverses[-1][: size % BLOCK, : size % BLOCK],
            ]
        return part

    def solve_lower(self, right: Tensor) -> Tensor:
        """Return L^-1 B for B (m, r)."""
        out = right.clone()
        for inverse, start in zip(self._inverses, range(0, len(out), BLOCK), strict=True):
            rows = slice(start, start + len(inverse))
            if start:
                out[rows] -= self.lower[rows, :start] @ out[:start]
            out[rows] = inverse @ out[rows]
        return out

    def solve_upper(self, right: Tensor) -> Tensor:
        """Return L'^-1 B for B (m, r)."""
        out = right.clone()
        starts = range(0, len(out), BLOCK)
        for inverse, start in zip(reversed(self._inverses), reversed(starts), strict=True):
            stop = start + len(inverse)
            if stop < len(out):
                out[start:stop] -= self.lower[stop:, start:stop].T @ out[stop:]
            out[start:stop] = inverse.T @ out[start:stop]
        return out

    def trailing_product(self, right: Tensor) -> Tensor:
        """Return the rows of A X below the leading block, for X (size, r) of that block.

        With L = [[L_11, 0], [L_21, L_22]], A_21 X = L_21 (L_11' X).
        """
        size = len(right)
        inner = torch.zeros_like(right)
        for start in range(0, size, BLOCK):
            columns = slice(start, min(start + BLOCK, size))
            square = self.lower[columns, columns].tril()
            inner[columns] = square.T @ right[columns]
            inner[columns] += self.lower[columns.stop : size, columns].T @ right[columns.stop :]
        return self.lower[size:, :size] @ inner

    def solve(self, right: Tensor) -> Tensor:
        """Return (A + shift I)^-1 B for B (m, r)."""
        return self.solve_upper(self.solve_lower(right))


def shifted_solutions(
    factor: CholeskyFactor,
    right: Tensor,
    shifts: Sequence[float],
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 80,
) -> tuple[Tensor, Tensor]:
    """Solve (A + s I) X = B for many shifts s with the factor at one shift s_0.

    With M = (A + s_0 I)^-1, the solution is M (I + (s - s_0) M)^-1 B: one Lanczos process on M
    from every column of B serves all shifts. Its basis Q and tridiagonal T give
    X = M Q (I + (s - s_0) T)^-1 e_1 |b|, with a residual norm that is known without forming it.
    The iterations needed grow with sqrt(max(s / s_0, s_0 / s)), so s_0 belongs in the (geometric)
    middle of the path.

    Args:
        factor: of A + s_0 I.
        right: B, (m, r).
        shifts: the values s.
        tolerance: on the residual norm of every column and shift, relative to |b|.
        max_iterations: Lanczos steps at most.

    Returns:
        solutions (len(shifts), m, r) and their relative residual norms (len(shifts), r).
    """
    delta = torch.tensor([s - factor.shift for s in shifts], dtype=torch.float64)
    start_norm = right.norm(dim=0).clamp_min(torch.finfo(right.dtype).tiny)
    basis = [right / start_norm]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    while True:
        step = factor.solve(basis[-1])
        alphas.append((basis[-1] * step).sum(0))
        for _ in range(2):  # full reorthogonalisation, twice is enough
            for vector in basis:
                step -= vector * (vector * step).sum(0)
        betas.append(step.norm(dim=0))
        tridiagonal = _tridiagonal(alphas, betas)
        coefficients = _shifted_coefficients(tridiagonal, delta)
        residuals = (delta[:, None] * betas[-1].double().cpu() * coefficients[..., -1]).abs()
        breakdown = bool((betas[-1] <= 1e-7 * alphas[0]).all())
        if float(residuals.max()) <= tolerance or breakdown or len(alphas) >= max_iterations:
            break
        basis.append(step / betas[-1].clamp_min(torch.finfo(step.dtype).tiny))
    # M Q = Q T + beta q_next e_j'; the last vector is `step`, already scaled by beta.
    combined = torch.einsum("rij,srj->sri", tridiagonal, coefficients).to(right)
    solutions = step * coefficients[:, None, :, -1].to(right)
    for index, vector in enumerate(basis):
        solutions += vector * combined[:, None, :, index]
    return solutions * start_norm, residuals


def _tridiagonal(alphas: list[Tensor], betas: list[Tensor]) -> Tensor:
    """(r, j, j) float64 tridiagonal matrices of all columns."""
    diagonal = torch.stack(alphas, 1).double()
    matrix = torch.diag_embed(diagonal)
    if len(alphas) > 1:
        off = torch.stack(betas[:-1], 1).double()
        matrix += torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return matrix.cpu()


def _shifted_coefficients(tridiagonal: Tensor, delta: Tensor) -> Tensor:
    """(s, r, j): (I + delta T)^-1 e_1 for every shift and column."""
    size = tridiagonal.shape[-1]
    systems = torch.eye(size, dtype=torch.float64) + delta[:, None, None, None] * tridiagonal
    first = torch.zeros(size, 1, dtype=torch.float64)
    first[0] = 1
    solved: Tensor = torch.linalg.solve(systems, first.expand(*systems.shape[:2], size, 1))
    return solved[..., 0]
