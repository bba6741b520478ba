"""The inequalities C v >= 0 of (R), for average and for max pooling: rows of signed patches.

Average pooling: a filter of gate i responds like its gate to every patch,

    (2 D_i(x_l) - 1) x_l . v >= 0 ,   D_i(x_l) = 1[x_l . a_i >= 0] .

Max pooling (Ergen & Pilanci 2021 derive one such program; this is ours): a network sees of a cell
only max_l (x_l . v)_+. With m the patch of the cell with the largest response to the gate,

    x_m . a_i >= 0 :   x_m . v >= 0  and  (x_m - x_l) . v >= 0  for every other patch l,
    x_m . a_i <  0 :   -x_l . v >= 0  for every patch l.

In the first case max_l (x_l . v)_+ = x_m . v and in the second it is 0, so that on the cone of gate
i the network is linear in v: phi_i(x) . v with phi_i(x) = 1[x_m . a_i >= 0] x_m. Cones of all
arrangements (of the hyperplanes x_l . v = 0 and (x_l - x_m) . v = 0) cover the space, so that (R)
over all of them equals (P). A patch of zeros, such as a place without a patch in a ragged cell,
adds nothing to max_l (.)_+ and no row; nor do two patches of a cell that are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-6
"""Patches of a cell that differ by less than this part of the larger one, the rounding of
float32, are the same patch."""


def taken_patches(patches: Tensor, gates: Tensor, pooling: str) -> Tensor:
    """1 where a gate (g, d) takes a patch (n, cells, q, d), else 0; (n, cells, q, g).

    With max pooling it takes the patch of its largest response, if that is not negative.
    """
    responses = patches @ gates.T
    if pooling == "average":
        return (responses >= 0).to(patches.dtype)
    absent = (patches == 0).all(3, keepdim=True)
    largest, best = responses.masked_fill(absent, -torch.inf).max(2, keepdim=True)
    return torch.zeros_like(responses).scatter_(2, best, (largest >= 0).to(patches.dtype))


@dataclass(frozen=True)
class Inequalities:
    """Row l of an image, cell and gate is own_l x_l + lead_l x_m; 0 where there is none.

    Args:
        patches: x, (cells, n, q, d).
        own: (cells, g, n, q).
        lead: (cells, g, n, q), or None for average pooling, which has no x_m.
        best: m, (cells, g, n), or None.
    """

    patches: Tensor
    own: Tensor
    lead: Tensor | None = None
    best: Tensor | None = None

    @classmethod
    def of(cls, patches: Tensor, on: Tensor, pooling: str) -> Inequalities:
        """Make the rows of all gates.

        Args:
            patches: (n, cells, q, d).
            on: the patches that gates take, (n, cells, q, g).
            pooling: ``average`` or ``max``.
        """
        x, taken = patches.transpose(0, 1), on.permute(1, 3, 0, 2)  # (cells, n, q, d), cells g n q
        present = (x != 0).any(3)[:, None].to(on.dtype)
        if pooling == "average":
            return cls(x, (2 * taken - 1) * present)
        best = taken.argmax(3)
        lead = taken.amax(3, keepdim=True) - taken
        kept = present * torch.where(lead > 0, _differs_from_best(x, best), 1.0)
        return cls(x, (2 * taken - 1) * kept, lead * kept, best)

    @property
    def empty(self) -> Tensor:
        """Whether a row is zero, (cells, g, n q)."""
        return (self.own == 0).flatten(2)

    def responses(self, weights: Tensor) -> Tensor:
        """C v for weights (..., cells, g, d), (..., cells, g, n q)."""
        *rest, cells, g, d = weights.shape
        by_cell = weights.reshape(-1, cells, g, d).transpose(0, 1).reshape(cells, -1, d)
        products = by_cell @ self.patches.flatten(1, 2).transpose(1, 2)
        responses = products.view(cells, -1, g, products.shape[2]).transpose(0, 1)
        responses = self._by_image(responses.reshape(*rest, cells, g, -1))
        rows = self.own * responses
        if self.lead is not None and self.best is not None:
            index = self.best[..., None].expand(*rows.shape[:-1], 1)
            rows = rows + self.lead * responses.gather(-1, index)
        return rows.flatten(-2)

    def pull(self, multipliers: Tensor) -> Tensor:
        """C' mu for multipliers (..., cells, g, n q), (..., cells, g, d)."""
        by_image = self._by_image(multipliers)
        shares = self.own * by_image
        if self.lead is not None and self.best is not None:
            index = self.best[..., None].expand(*shares.shape[:-1], 1)
            shares = shares.scatter_add(-1, index, (self.lead * by_image).sum(-1, keepdim=True))
        pulled: Tensor = shares.flatten(-2) @ self.patches.flatten(1, 2)
        return pulled

    def _by_image(self, values: Tensor) -> Tensor:
        """Values (..., n q) as (..., n, q)."""
        return values.reshape(*values.shape[:-1], *self.own.shape[2:])

    def rows(self, images: slice) -> Tensor:
        """C of some images, (cells, g, n q, d)."""
        x = self.patches[:, None, images]
        rows = self.own[:, :, images, :, None] * x
        if self.lead is not None and self.best is not None:
            first = _best_patches(self.patches[:, images], self.best[:, :, images])
            rows = rows + self.lead[:, :, images, :, None] * first
        return rows.flatten(2, 3)


def _best_patches(patches: Tensor, best: Tensor) -> Tensor:
    """x_m of every cell, gate and image, (cells, g, n, 1, d), of patches (cells, n, q, d)."""
    cells, n, q, d = patches.shape
    index = best[..., None, None].expand(*best.shape, 1, d)
    return patches[:, None].expand(cells, best.shape[1], n, q, d).gather(3, index)


def _differs_from_best(patches: Tensor, best: Tensor) -> Tensor:
    """1 where a patch is another one than x_m, else 0, (cells, g, n, q); gate by gate."""
    size = patches.abs().amax((2, 3))[:, None, :, None]
    distances = [
        (patches[:, None] - _best_patches(patches, best[:, i : i + 1])).abs().amax(4)
        for i in range(best.shape[1])
    ]
    return (torch.cat(distances, 1) > TIE * size).to(patches.dtype)
