"""Regularisers R of the convex programs: value, proximal map and conjugate, one class each.

Weights are always (k, cells, g, d): class, pooling cell, gate, coordinate of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from convexcnn.errors import SettingError


class Regulariser(ABC):
    """A convex function R of the weights (k, cells, g, d) of one block."""

    name: str

    @abstractmethod
    def value(self, weights: Tensor) -> Tensor:
        """Return R(V), a scalar."""

    @abstractmethod
    def prox(self, weights: Tensor, step: float) -> Tensor:
        """Return argmin_U (1/2) |U - V|^2 + step R(U)."""

    @abstractmethod
    def conjugate(self, slopes: Tensor) -> Tensor:
        """Return R*(Z) = max_V <Z, V> - R(V), a scalar."""


class SquaredNorm(Regulariser):
    """R(V) = (1/2) sum |V|^2: ridge."""

    name = "l2"

    def value(self, weights: Tensor) -> Tensor:
        return 0.5 * weights.square().sum()

    def prox(self, weights: Tensor, step: float) -> Tensor:
        return weights / (1 + step)

    def conjugate(self, slopes: Tensor) -> Tensor:
        return 0.5 * slopes.square().sum()


class Norm(Regulariser):
    """A regulariser that is a norm; its conjugate is 0 inside the ball of the dual norm."""

    @abstractmethod
    def dual_norm(self, slopes: Tensor) -> Tensor:
        """Return max <Z, V> over R(V) <= 1, a scalar."""

    @abstractmethod
    def gate_norms(self, slopes: Tensor) -> Tensor:
        """Return the part of every gate in the dual norm, (g,): its largest one is the norm."""

    def conjugate(self, slopes: Tensor) -> Tensor:
        inside = self.dual_norm(slopes) <= 1
        return torch.where(inside, 0.0, torch.inf).to(slopes.dtype)


class GroupNorm(Norm):
    """R(V) = sum of |v_ic| over gates, classes and cells: every one of them is a neuron.

    The exact regulariser of networks in which every class and cell has filters of its own
    (Ergen & Pilanci 2021).
    """

    name = "group"

    def value(self, weights: Tensor) -> Tensor:
        return _norms(weights).sum()

    def prox(self, weights: Tensor, step: float) -> Tensor:
        return weights * (1 - step / _norms(weights).clamp_min(step)) if step else weights

    def dual_norm(self, slopes: Tensor) -> Tensor:
        return _norms(slopes).max()

    def gate_norms(self, slopes: Tensor) -> Tensor:
        return _norms(slopes).amax((0, 1))[:, 0]


class NuclearNorm(Norm):
    """R(V) = sum over gates of the nuclear norm of V_i, d x (cells k).

    The exact regulariser of gated networks whose classes and cells share their filters
    (Sahiner et al. 2024, Theorem 3.6); singular vectors of V_i are the neurons. Where a patch is
    one number (d = 1), V_i is a vector over classes and cells, and |V_i| its length.
    """

    name = "nuclear"

    def value(self, weights: Tensor) -> Tensor:
        if weights.shape[3] == 1:
            return self.gate_norms(weights).sum()
        values: Tensor = torch.linalg.svdvals(gate_matrices(weights))
        return values.sum()

    def prox(self, weights: Tensor, step: float) -> Tensor:
        if weights.shape[3] == 1:
            norms = self.gate_norms(weights)[:, None]
            return weights * (1 - step / norms.clamp_min(step)) if step else weights
        left, values, right = torch.linalg.svd(gate_matrices(weights), full_matrices=False)
        shrunk: Tensor = (left * (values - step).clamp_min(0)[:, None]) @ right
        k, cells, gates, dim = weights.shape
        return shrunk.view(gates, dim, k, cells).permute(2, 3, 0, 1)

    def dual_norm(self, slopes: Tensor) -> Tensor:
        return self.gate_norms(slopes).max()

    def gate_norms(self, slopes: Tensor) -> Tensor:
        if slopes.shape[3] == 1:
            lengths: Tensor = torch.linalg.vector_norm(slopes, dim=(0, 1, 3))
            return lengths
        values: Tensor = torch.linalg.svdvals(gate_matrices(slopes))
        return values[:, 0]


def _norms(weights: Tensor) -> Tensor:
    """|v_ic|, (k, cells, g, 1)."""
    norms: Tensor = torch.linalg.vector_norm(weights, dim=-1, keepdim=True)
    return norms


def gate_matrices(weights: Tensor) -> Tensor:
    """Return V_i of every gate, (g, d, k cells), from weights (k, cells, g, d)."""
    return weights.permute(2, 3, 0, 1).flatten(2)


REGULARISERS: dict[str, type[Regulariser]] = {
    regulariser.name: regulariser for regulariser in (SquaredNorm, GroupNorm, NuclearNorm)
}


def get_regulariser(name: str) -> Regulariser:
    """Return the regulariser called ``name``; SettingError if there is none."""
    if name not in REGULARISERS:
        raise SettingError(
            f"regulariser {name!r} is not known; choose one of {', '.join(REGULARISERS)}"
        )
    return REGULARISERS[name]()
