"""The cones of (R) once more, for certificates only: nothing here is shared with a solver."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from convexcnn.programs.program import Program

POLISH_STEPS = 200
SAME = 1e-6
"""Relative difference below which two patches of a cell are one: the rounding of float32."""


class Cones(ABC):
    """Inequalities C v >= 0 of every cell and gate, one per patch."""

    square_norms: Tensor
    """|C|^2 of every cell and gate, (cells, g) or (cells, 1)."""
    rows: int
    """Inequalities per cell and gate, n q."""

    @abstractmethod
    def responses(self, weights: Tensor) -> Tensor:
        """C v of weights (..., cells, g, d), (..., cells, g, n q)."""

    @abstractmethod
    def matrix_of(self, cell: int, gate: int) -> Tensor:
        """C of one cell and gate, (n q, d)."""

    @abstractmethod
    def pull(self, multipliers: Tensor) -> Tensor:
        """C' mu of multipliers (..., cells, g, n q), (..., cells, g, d)."""


class SignedPatches(Cones):
    """(2 D_i(x) - 1) x . v >= 0 for every patch x: average pooling.

    Args:
        patches: (cells, m, d).
        gates: (g, d).
    """

    def __init__(self, patches: Tensor, gates: Tensor) -> None:
        self.patches = patches.double()
        reach = gates.double() @ self.patches.transpose(1, 2)
        self.sign = torch.where(reach >= 0, 1.0, -1.0).double()
        self.square_norms = torch.linalg.matrix_norm(self.patches, 2).square()[:, None]
        self.rows = self.patches.shape[1]

    def responses(self, weights: Tensor) -> Tensor:
        return (weights @ self.patches.transpose(1, 2)) * self.sign

    def matrix_of(self, cell: int, gate: int) -> Tensor:
        return self.sign[cell, gate, :, None] * self.patches[cell]

    def pull(self, multipliers: Tensor) -> Tensor:
        return (multipliers * self.sign) @ self.patches


class MaximumRows(Cones):
    """The patch with the largest response stays the largest, or all stay negative: max pooling."""

    def __init__(self, program: Program) -> None:
        patches, gates = program.patches.double(), program.gates.double()
        self.matrix = torch.stack(
            [
                torch.stack([_rows_of(patches[:, cell], gate) for gate in gates])
                for cell in range(patches.shape[1])
            ]
        )
        self.square_norms = torch.linalg.matrix_norm(self.matrix, 2).square()
        self.rows = self.matrix.shape[2]

    def responses(self, weights: Tensor) -> Tensor:
        return torch.einsum("...cgd,cgmd->...cgm", weights, self.matrix)

    def matrix_of(self, cell: int, gate: int) -> Tensor:
        return self.matrix[cell, gate]

    def pull(self, multipliers: Tensor) -> Tensor:
        return torch.einsum("...cgm,cgmd->...cgd", multipliers, self.matrix)


def taken_patches(patches: Tensor, gate: Tensor, pooling: str) -> Tensor:
    """Which patches (n, q, d) of one cell a gate (d,) takes, (n, q): all that are on, or one."""
    responses = patches @ gate
    if pooling == "average":
        return responses >= 0
    responses = torch.where((patches == 0).all(2), -torch.inf, responses)
    largest = responses.argmax(1, keepdim=True)
    is_largest = torch.arange(patches.shape[1]) == largest
    return is_largest & (responses.gather(1, largest) >= 0)


def _rows_of(patches: Tensor, gate: Tensor) -> Tensor:
    """The inequalities of one cell and one gate, (n q, d)."""
    taken = taken_patches(patches, gate, "max")
    rows = -patches  # where nothing is taken, nothing may become positive
    for image in range(len(patches)):
        if taken[image].any():
            leader = patches[image][taken[image]][0]
            rows[image] = leader - patches[image]
            tie = rows[image].abs().amax(1) <= SAME * patches[image].abs().max()
            rows[image][tie] = 0
            rows[image][taken[image]] = leader
    rows[(patches == 0).all(2)] = 0
    return rows.flatten(0, 1)


def cones_of(program: Program) -> Cones:
    """The cones of a program's gates, in float64."""
    if program.pooling == "max":
        return MaximumRows(program)
    return SignedPatches(program.patches.transpose(0, 1).flatten(1, 2), program.gates)


def moved_into_cones(weights: Tensor, shift: Tensor, gates: Tensor) -> Tensor:
    """v + t a, moved along its gate; zero, which every cone holds, where no t leads into one.

    Args:
        weights: v, (..., g, d).
        shift: t, (..., g, 1); infinite where no move is far enough.
        gates: a, (g, d).
    """
    return torch.where(shift.isfinite(), weights + shift * gates, 0.0)


def project_on_cones(slopes: Tensor, cones: Cones, start: Tensor) -> Tensor:
    """Return z + C' mu, whose norm bounds that of the projection of z on its cone from above.

    minimise (1/2) |z + C' mu|^2 over mu >= 0, by accelerated projected gradients.

    Args:
        slopes: z, (2, k, cells, g, d).
        cones: C.
        start: mu >= 0 to begin with, (2, k, cells, g, n q).
    """
    steps = 1 / cones.square_norms.clamp_min(1e-300)[..., None]
    mu, ahead, momentum = start, start, 1.0
    for _ in range(POLISH_STEPS):
        gradient = cones.responses(slopes + cones.pull(ahead))
        previous, mu = mu, (ahead - steps * gradient).clamp_min(0)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = mu + (momentum - 1) / following * (mu - previous)
        momentum = following
    polished = slopes + cones.pull(mu)
    given = slopes + cones.pull(start)
    better = polished.norm(dim=-1, keepdim=True) <= given.norm(dim=-1, keepdim=True)
    return torch.where(better, polished, given)
