"""The cones of (R): K_i = {v : C v >= 0}, with the rows of :mod:`.inequalities`.

On K_i the gated response of v is its ReLU response, so a point of the cone is a ReLU filter.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from convexcnn.programs.program import Program

ORTHOGONAL = 1e-14
"""Responses below this part of a gate's largest one are rounding: no t helps there."""

RATIOS = 2**21
"""Ratios x . v / x . a that are in memory at once, 16 MB."""


def cone_responses(program: Program, weights: Tensor) -> Tensor:
    """Return C v: for average pooling (2 D_i(x) - 1) x . v for every patch.

    Args:
        program: whose patches and gates make the cones.
        weights: (..., cells, g, d).

    Returns:
        (..., cells, g, n q), negative outside the cone.
    """
    return program.inequalities.responses(weights)


def shift_into_cones(program: Program, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return v + t a_i inside its cone, with the smallest t >= 0, and t.

    t = max over rows c of C of -(c . v) / (c . a_i): a gate lies inside its own cone. A row that
    is orthogonal to its gate is left out: no t helps there.

    Args:
        program: whose patches and gates make the cones.
        weights: (..., cells, g, d).

    Returns:
        the shifted weights, and t (..., cells, g).
    """
    inside = cone_responses(program, program.gates.expand(program.shape[1:]))
    outside = -cone_responses(program, weights)
    ratio = torch.where((outside > 0) & (inside > 0), outside / inside, 0.0)
    shift = ratio.amax(-1)
    return weights + shift[..., None] * program.gates, shift


def cone_shifts(
    patches: Iterable[Tensor], gates: Tensor, filters: Tensor, pooling: str = "average"
) -> Tensor:
    """The smallest t >= 0 with v + t a_i in the cone of gate i, from a stream of patches.

    t = max over patches of -(x . v) / (x . a_i), as in :func:`shift_into_cones`: the sign of the
    gate cancels.

    Args:
        patches: blocks (b, cells, q, d), walked through once.
        gates: (g, d).
        filters: v, (cells, g, r, d); (1, g, r, d) for filters that all cells share.
        pooling: that of the program.

    Returns:
        t, (cells, g, r), or (1, g, r).
    """
    owners, g, r, d = filters.shape
    shift = filters.new_zeros(owners, g, r)
    flat = filters.reshape(owners, g * r, d).transpose(1, 2)
    for block in patches:
        if pooling == "max":
            torch.maximum(shift, _shifts_of_block(block, gates, filters), out=shift)
            continue
        by_cell = block.transpose(0, 1).reshape(owners, -1, d)
        for rows in torch.split(by_cell, max(1, RATIOS // (owners * g * r)), 1):
            reach = rows @ gates.T
            apart = reach.abs() > ORTHOGONAL * reach.abs().amax(1, keepdim=True)
            inverse = torch.where(apart, -1 / reach, 0.0)
            ratios = (rows @ flat).view(owners, -1, g, r).mul_(inverse[..., None])
            torch.maximum(shift, ratios.amax(1), out=shift)
    return shift


def _shifts_of_block(patches: Tensor, gates: Tensor, filters: Tensor) -> Tensor:
    """t (cells, g, r), or (1, g, r), of one block of patches with max pooling."""
    program = Program(patches, gates, patches.new_zeros(len(patches), 1), 1.0, pooling="max")
    by_factor = filters.permute(2, 0, 1, 3).expand(-1, patches.shape[1], -1, -1)
    _, shift = shift_into_cones(program, by_factor)
    shift = shift.permute(1, 2, 0)
    return shift if len(filters) > 1 else shift.amax(0, keepdim=True)


def cone_decomposition(
    patches: Iterable[Tensor], gates: Tensor, weights: Tensor, pooling: str = "average"
) -> Tensor:
    """Write every gated filter as a difference of two filters in its cone: v = (v + t a) - t a.

    Outputs on the training images stay the same; the norm grows by 2 t |a| or so.

    Args:
        patches: blocks (b, cells, q, d) of all training images.
        gates: (g, d).
        weights: (k, cells, g, d), of the gated program.
        pooling: that of the program.

    Returns:
        V and W, (2, k, cells, g, d).
    """
    shift = cone_shifts(patches, gates, weights.permute(1, 2, 0, 3), pooling).permute(2, 0, 1)
    along = shift[..., None] * gates
    return torch.stack([weights + along, along])
