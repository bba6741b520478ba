"""Multipliers of the cones of (R), of which all but d per cone are zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseMultipliers:
    """mu >= 0 of the inequalities (2 D_i(x) - 1) x . v_ic >= 0, in the scale of the program.

    Args:
        patches: (2, k, cells, g, a) which patches of the cell, as image * q + place; -1 for none.
        values: (2, k, cells, g, a).
    """

    patches: Tensor
    values: Tensor

    def dense(self, rows: int) -> Tensor:
        """Return mu for all ``rows`` = n q patches of every cell, (2, k, cells, g, n q)."""
        shape = (*self.patches.shape[:-1], rows)
        kept = torch.where(self.patches >= 0, self.values, 0.0)
        return self.values.new_zeros(shape).scatter_add_(-1, self.patches.clamp_min(0), kept)
