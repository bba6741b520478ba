"""The linear inequalities of (R) as an interior-point method sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.program import Program

OUTER_ELEMENTS = 2**24
"""Numbers in a table of outer products x x'."""


class ConeRows:
    """C v = (2 D_i(x) - 1) x . v for every patch x, for weights (s, k, G, d) with G = cells g.

    Places without a patch, which are zero, get a response of 1: they constrain nothing.

    Args:
        program: formulation ``relu``.

    Raises:
        SettingError: if a patch is orthogonal to a gate, so that the cone has no interior.
    """

    def __init__(self, program: Program) -> None:
        self.patches = program.patches.transpose(0, 1).flatten(1, 2)  # (cells, m, d)
        signs = 2 * program.on.permute(1, 3, 0, 2).flatten(2) - 1  # (cells, g, m)
        empty = (self.patches == 0).all(2)[:, None]
        self.signs = torch.where(empty, 0.0, signs)
        self.offset = empty.to(signs.dtype)
        reach = self.signs * (program.gates @ self.patches.transpose(1, 2)) + self.offset
        if not bool((reach > 0).all()):
            raise SettingError(
                "a training patch is orthogonal to a gate, so no filter lies inside that gate's "
                "cone; draw other gates"
            )

    def responses(self, weights: Tensor) -> Tensor:
        """C v, (s, k, cells, g, m)."""
        return self.changes(weights) + self.offset

    def changes(self, direction: Tensor) -> Tensor:
        """The change of the responses along a direction of the weights."""
        return (self._by_cell(direction) @ self.patches.transpose(1, 2)) * self.signs

    def pull(self, multipliers: Tensor) -> Tensor:
        """C' mu, (s, k, G, d)."""
        return ((multipliers * self.signs) @ self.patches).flatten(2, 3)

    def gram(self, scales: Tensor) -> Tensor:
        """C' diag(scales) C, (s, k, G, d, d): sum of scale x x' over patches."""
        cells, m, d = self.patches.shape
        scales = scales * self.signs.square()
        total = scales.new_zeros(*scales.shape[:-1], d * d)
        step = max(1, OUTER_ELEMENTS // (cells * d * d))
        for start in range(0, m, step):
            part = self.patches[:, start : start + step]
            outer = (part[..., :, None] * part[..., None, :]).flatten(2)
            total += scales[..., start : start + step] @ outer
        return total.view(*scales.shape[:2], -1, d, d)

    def _by_cell(self, weights: Tensor) -> Tensor:
        return weights.view(*weights.shape[:2], len(self.patches), -1, weights.shape[-1])
