"""The linear inequalities of (R) as an interior-point method sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.programs.program import Program

OUTER_ELEMENTS = 2**24
"""Numbers in a table of outer products x x'; one that is not larger is kept."""
CENTRING_STEPS = 4


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
        self._table: Tensor | None = None
        self.offset = self.inequalities.empty.to(program.gates.dtype)
        reach = self.inequalities.responses(program.gates.expand(program.shape[1:])) + self.offset
        if not bool((reach > 0).all()):
            raise SettingError(
                "a training patch is orthogonal to a gate, or the gate responds alike to two "
                "patches of a cell with max pooling, so no filter lies inside that gate's cone; "
                "draw other gates"
            )

    @property
    def count(self) -> int:
        """Rows of a cone."""
        return self.offset.shape[-1]

    def centres(self, gates: Tensor) -> Tensor:
        """Unit vectors far from the walls of the cones, (1, 1, G, d).

        A few steps of Newton's method from the gates (g, d) to the maximum of
        sum log(C v) - (rows / 2) |v|^2.
        """
        cells, _, _, d = self.inequalities.patches.shape
        unit = gates / gates.norm(dim=1, keepdim=True)
        centres = unit.repeat(cells, 1)[None, None]
        eye = torch.eye(d, dtype=gates.dtype)
        for _ in range(CENTRING_STEPS):
            slack = self.responses(centres)
            slope = self.pull(slack.reciprocal()) - self.count * centres
            curvature = self.gram(slack.square().reciprocal()) + self.count * eye
            change = torch.linalg.solve(curvature, slope)
            steepest = (-self.changes(change) / slack).amax(-1).flatten(2)[..., None]
            centres = centres + (0.9 / steepest.clamp_min(0.9)) * change
        length = centres.norm(dim=-1, keepdim=True)
        # Without a wall the maximum is at zero, and any vector is as far from none.
        middle: Tensor = torch.where(length > 1e-9, centres / length, unit.repeat(cells, 1))
        return middle

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
        return total.reshape(*scales.shape[:2], -1, d, d)

    def _gram_of_patches(self, scales: Tensor) -> Tensor:
        """Sum of scale x x' over patches, which all gates share, (s, k, cells, g, d d)."""
        s, k, cells, g, m = scales.shape
        d = self.inequalities.patches.shape[-1]
        by_cell = scales.permute(2, 0, 1, 3, 4).reshape(cells, s * k * g, m)
        half = d * (d + 1) // 2
        total = scales.new_zeros(cells, s * k * g, half)
        step = max(1, OUTER_ELEMENTS // (cells * half))
        for start in range(0, m, step):
            total += by_cell[..., start : start + step] @ self._pairs(start, step)
        square = _unpacked(total, d)
        return square.view(cells, s, k, g, d * d).permute(1, 2, 0, 3, 4)

    def _pairs(self, start: int, step: int) -> Tensor:
        """Products x_i x_j, i <= j, of some patches, (cells, step, d (d + 1) / 2)."""
        patches = self.inequalities.patches.flatten(1, 2)
        if step < patches.shape[1]:
            return _half_outer(patches[:, start : start + step])
        if self._table is None:
            self._table = _half_outer(patches)
        return self._table

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


def _half_outer(vectors: Tensor) -> Tensor:
    """x_i x_j for i <= j of vectors (..., d)."""
    first, second = torch.triu_indices(vectors.shape[-1], vectors.shape[-1])
    return vectors[..., first] * vectors[..., second]


def _unpacked(halves: Tensor, d: int) -> Tensor:
    """The symmetric matrices (..., d d) of which :func:`_half_outer` has one half."""
    first, second = torch.triu_indices(d, d)
    index = torch.zeros(d, d, dtype=torch.long)
    index[first, second] = index[second, first] = torch.arange(len(first))
    return halves[..., index.flatten()]
