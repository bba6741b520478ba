"""The linear inequalities of (R) as an interior-point method sees them."""

from __future__ import annotations

from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.program import Program

OUTER_ELEMENTS = 2**24
"""Numbers in a table of outer products x x'."""


class ConeRows:
    """C v of every patch, for weights (s, k, G, d) with G = cells g.

    Rows that are zero, such as those of places without a patch, get a response of 1: they
    constrain nothing.

    Args:
        program: formulation ``relu``.

    Raises:
        SettingError: if a row is orthogonal to its gate, so that the cone has no interior.
    """

    def __init__(self, program: Program) -> None:
        self.inequalities = program.inequalities
        self.offset = self.inequalities.empty.to(program.gates.dtype)
        reach = self.inequalities.responses(program.gates.expand(program.shape[1:])) + self.offset
        if not bool((reach > 0).all()):
            raise SettingError(
                "a training patch is orthogonal to a gate, or the gate responds alike to two "
                "patches of a cell with max pooling, so no filter lies inside that gate's cone; "
                "draw other gates"
            )

    def responses(self, weights: Tensor) -> Tensor:
        """C v, (s, k, cells, g, m)."""
        return self.changes(weights) + self.offset

    def changes(self, direction: Tensor) -> Tensor:
        """The change of the responses along a direction of the weights."""
        cells, _, _, d = self.inequalities.patches.shape
        by_cell = direction.view(*direction.shape[:2], cells, -1, d)
        return self.inequalities.responses(by_cell)

    def pull(self, multipliers: Tensor) -> Tensor:
        """C' mu, (s, k, G, d)."""
        return self.inequalities.pull(multipliers).flatten(2, 3)

    def gram(self, scales: Tensor) -> Tensor:
        """C' diag(scales) C, (s, k, G, d, d): sum of scale c c' over rows."""
        if self.inequalities.lead is None:
            total = self._gram_of_patches(scales * self.inequalities.own.flatten(2).square())
        else:
            total = self._gram_of_rows(scales)
        d = self.inequalities.patches.shape[-1]
        return total.view(*scales.shape[:2], -1, d, d)

    def _gram_of_patches(self, scales: Tensor) -> Tensor:
        """Sum of scale x x' over patches, which all gates share, (s, k, cells, g, d d)."""
        patches = self.inequalities.patches.flatten(1, 2)
        cells, m, d = patches.shape
        total = scales.new_zeros(*scales.shape[:-1], d * d)
        step = max(1, OUTER_ELEMENTS // (cells * d * d))
        for start in range(0, m, step):
            part = patches[:, start : start + step]
            total += scales[..., start : start + step] @ _outer(part)
        return total

    def _gram_of_rows(self, scales: Tensor) -> Tensor:
        """Sum of scale c c' over the rows of every gate, (s, k, cells, g, d d)."""
        cells, n, q, d = self.inequalities.patches.shape
        s, k, _, g, _ = scales.shape
        by_gate = scales.flatten(0, 1).permute(1, 2, 0, 3)  # (cells, g, s k, m)
        total = scales.new_zeros(cells, g, s * k, d * d)
        step = max(1, OUTER_ELEMENTS // (cells * g * q * d * d))
        for start in range(0, n, step):
            rows = self.inequalities.rows(slice(start, start + step))
            total += by_gate[..., start * q : (start + step) * q] @ _outer(rows)
        return total.permute(2, 0, 1, 3).view(s, k, cells, g, d * d)


def _outer(vectors: Tensor) -> Tensor:
    """x x' of vectors (..., d), (..., d d)."""
    return (vectors[..., :, None] * vectors[..., None, :]).flatten(-2)
