"""The smooth function of the group weights eta that replaces a group lasso, from either side.

J(eta) = min_v (1/2) |sum_i Phi_i v_i - y|^2 + (beta/2) sum_i (|v_i|^2 / eta_i + eta_i)
       = (1/2) y' L + (beta/2) sum_i eta_i,   L = (I + (1/beta) sum_i eta_i Phi_i Phi_i')^-1 y

L is the residual and v_i = (eta_i / beta) Phi_i' L. Because |v| = min_eta (|v|^2/eta + eta)/2, the
minimum over eta >= 0 is that of the group lasso (multiple kernel learning, Bach et al. 2004).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.program import Program

REFINEMENTS = 6
"""Corrections of a residual before its system is factorised in float64."""
EXACT = 1e-11
"""Size of what a refined residual misses, relative to its own."""


@dataclass(frozen=True)
class Measure:
    """J at one eta, with what Newton's method and the duality gap need.

    Args:
        value: J.
        square: |L|^2.
        inner: <L, y>.
        pulled: Phi_i' L of every group, (groups, d).
        hessian: computes the second derivative of J, (groups, groups):
            (1/beta^2) <Phi_i Phi_i' L, (I + K/beta)^-1 Phi_j Phi_j' L>.
    """

    value: float
    square: float
    inner: float
    pulled: Tensor
    hessian: Callable[[], Tensor]


class Side(ABC):
    """Evaluates J; ``beta`` is that of the sum of squares, n times the program's."""

    groups: int
    mean_square: float
    """(1/n) sum of |Phi_i|_F^2 over all groups."""

    @abstractmethod
    def measure(self, eta: Tensor, beta: float, column: int) -> Measure:
        """J of one column of the targets at eta (groups,)."""


class KernelSide(Side):
    """Works with n x n kernels: for programs with more features than images.

    Kernels are made and factorised in float32, twice as fast, and the residual is refined by
    products with Phi in float64; a system too ill-conditioned for that is factorised in float64.
    A subclass says how kernels and products with Phi are made.
    """

    def __init__(self, program: Program) -> None:
        _, cells, g, d = program.shape
        self.groups, self.dim = cells * g, d
        self.centre = program.intercept
        y = program.targets
        self.targets = y - y.mean(0) if self.centre else y

    @abstractmethod
    def kernel(self, eta: Tensor) -> Tensor:
        """sum_i eta_i Phi_i Phi_i', (n, n), in the precision of eta, until the next call."""

    @abstractmethod
    def pull(self, dual: Tensor) -> Tensor:
        """Phi_i' L of every group, (groups, d)."""

    @abstractmethod
    def push(self, vectors: Tensor) -> Tensor:
        """Phi_i z_i of every group, (n, groups)."""

    def measure(self, eta: Tensor, beta: float, column: int) -> Measure:
        y = self.targets[:, column]
        for dtype in (torch.float32, torch.float64):
            factor = self._factor(eta.to(dtype), beta)
            if factor is not None:
                dual, pulled, exact = self._refined(factor, eta / beta, y)
                if exact or dtype is torch.float64:
                    break
        else:
            raise SettingError("a kernel is not positive definite; raise beta or the tolerance")

        def hessian() -> Tensor:
            images = self._centred(self.push(pulled))
            half = torch.linalg.solve_triangular(factor, images.to(factor.dtype), upper=False)
            half = half.double()  # a product in float32 may be indefinite
            product: Tensor = half.T @ half
            return product / beta**2

        inner = float(dual @ y)
        value = 0.5 * inner + 0.5 * beta * float(eta.sum())
        return Measure(value, float(dual @ dual), inner, pulled, hessian)

    def _factor(self, eta: Tensor, beta: float) -> Tensor | None:
        """The Cholesky factor of I + K / beta, or None where rounding left no such factor."""
        matrix = self.kernel(eta / beta)
        if self.centre:
            means = matrix.mean(0)
            matrix -= means
            matrix -= (means - means.mean())[:, None]
        matrix.diagonal().add_(1)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if bool(failed) else factor

    def _refined(self, factor: Tensor, scale: Tensor, y: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Solve (I + K / beta) L = y by refinement.

        Returns:
            L (n,), Phi' L (groups, d), and whether float64 could not do much better.
        """
        dual, missing = torch.zeros_like(y), y
        for _ in range(REFINEMENTS):
            change = torch.cholesky_solve(missing[:, None].to(factor.dtype), factor)[:, 0]
            dual = dual + change
            pulled = self.pull(dual)
            missing = y - dual - self._centred(self.push(scale[:, None] * pulled).sum(1))
            if float(missing.norm()) <= EXACT * float(dual.norm()):
                return dual, pulled, True
        return dual, pulled, False

    def _centred(self, columns: Tensor) -> Tensor:
        return columns - columns.mean(0) if self.centre else columns


class DenseKernelSide(KernelSide):
    """Kernels of explicit features."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        n = len(program.targets)
        self.phi = program.features.view(n, self.groups, self.dim)
        self.mean_square = float(self.phi.square().sum()) / n

    def kernel(self, eta: Tensor) -> Tensor:
        active = eta > 0
        scaled = (self.phi[:, active].to(eta.dtype) * eta[active].sqrt()[:, None]).flatten(1)
        return scaled @ scaled.T

    def pull(self, dual: Tensor) -> Tensor:
        return (dual @ self.phi.flatten(1)).view(self.groups, self.dim)

    def push(self, vectors: Tensor) -> Tensor:
        return torch.einsum("ngd,gd->ng", self.phi, vectors)


class MaskedKernelSide(KernelSide):
    """Kernels of cells with one patch each, such as fully connected layers.

    Phi_i = D_i X, so sum_i eta_i Phi_i Phi_i' = X X' o (D diag(eta) D'): d times less work, and
    Phi is never made.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.patches = program.patches[:, :, 0].transpose(0, 1)  # (cells, n, d)
        self.on = program.on[:, :, 0].transpose(0, 1)  # (cells, n, g)
        squares = self.patches.square().sum(2, keepdim=True) * self.on
        self.mean_square = float(squares.sum()) / len(program.targets)
        self._inner: dict[torch.dtype, Tensor] = {}
        self._overlap: dict[torch.dtype, Tensor] = {}  # reused: fresh memory costs page faults

    def kernel(self, eta: Tensor) -> Tensor:
        if eta.dtype not in self._inner:
            patches = self.patches.to(eta.dtype)
            self._inner[eta.dtype] = patches @ patches.transpose(1, 2)
            self._overlap[eta.dtype] = torch.empty_like(self._inner[eta.dtype])
        on, weights = self.on.to(eta.dtype), eta.view(len(self.on), 1, -1)
        overlap = torch.matmul(on * weights, on.transpose(1, 2), out=self._overlap[eta.dtype])
        overlap.mul_(self._inner[eta.dtype])
        return overlap.sum(0) if len(overlap) > 1 else overlap[0]

    def pull(self, dual: Tensor) -> Tensor:
        return (self.on.transpose(1, 2) @ (self.patches * dual[:, None])).flatten(0, 1)

    def push(self, vectors: Tensor) -> Tensor:
        by_cell = vectors.view(len(self.on), -1, self.dim)
        responses = (self.patches @ by_cell.transpose(1, 2)).mul_(self.on)
        return responses.transpose(0, 1).flatten(1)


class GramSide(Side):
    """Works with the Gram matrix Phi' Phi: for programs with more images than features."""

    def __init__(self, program: Program) -> None:
        _, cells, g, d = program.shape
        self.groups, self.dim = cells * g, d
        phi, y = program.features, program.targets
        if program.intercept:
            phi, y = phi - phi.mean(0), y - y.mean(0)
        self.gram = phi.T @ phi
        self.cross = phi.T @ y
        self.target_squares = y.square().sum(0)
        self.mean_square = float(self.gram.diagonal().sum()) / len(y)

    def measure(self, eta: Tensor, beta: float, column: int) -> Measure:
        active = (eta > 0).repeat_interleave(self.dim)
        scale = eta.sqrt().repeat_interleave(self.dim)[active]
        rows = self.gram[active]
        system = rows[:, active] * torch.outer(scale, scale)
        system.diagonal().add_(beta)
        factor = torch.linalg.cholesky(system)
        cross, total = self.cross[:, column], float(self.target_squares[column])
        solved = torch.cholesky_solve((scale * cross[active])[:, None], factor)[:, 0]
        weights = scale * solved
        fitted = rows.T @ weights  # Phi' Phi v
        pulled = (cross - fitted).view(self.groups, self.dim)
        inner = total - float(cross[active] @ weights)
        square = inner - float(pulled.flatten()[active] @ weights)

        def hessian() -> Tensor:
            blocks = self.gram.view(self.groups * self.dim, self.groups, self.dim)
            images = torch.einsum("fgd,gd->fg", blocks, pulled)
            outer = torch.einsum("gdh,gd->gh", images.view(self.groups, self.dim, -1), pulled)
            half = torch.linalg.solve_triangular(
                factor, scale[:, None] * images[active], upper=False
            )
            product: Tensor = outer - half.T @ half
            return product / beta**2

        value = 0.5 * inner + 0.5 * beta * float(eta.sum())
        return Measure(value, square, inner, pulled, hessian)


def choose_side(program: Program) -> Side:
    """The side with the smaller matrices."""
    _, cells, g, d = program.shape
    if len(program.targets) > cells * g * d:
        return GramSide(program)
    return MaskedKernelSide(program) if program.patches.shape[2] == 1 else DenseKernelSide(program)
