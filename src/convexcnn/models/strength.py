"""How strong the neurons of a convex block are, and how many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.data.arguments import check_whole
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.regularisers import gate_matrices

VISIBLE = 1e-6
"""Filters whose norm is below this part of the strongest one's count as zero."""


def strongest_filters(
    weights: Tensor, transform: PatchTransform, n_filters: int, *, signed: bool
) -> tuple[Tensor, Tensor]:
    """Return the strongest filters of every class on raw pixels, and their norms |v|.

    Args:
        weights: (k, cells, g, d), or V and W, (2, k, cells, g, d).
        transform: raw patch -> d coordinates.
        n_filters: how many per class, m.
        signed: whether V and W are given; W counts against its class and is turned.

    Returns:
        filters (k, m, d_raw) by falling strength, and strengths (k, m).

    Raises:
        SettingError: no filter asked for.
    """
    check_whole("n_filters", n_filters, 1)
    if signed:
        weights = torch.stack([weights[0], -weights[1]], 1)
    columns = weights.reshape(len(weights), -1, weights.shape[-1])
    strength, order = columns.norm(dim=2).sort(dim=1, descending=True)
    index = order[:, :n_filters, None].expand(-1, -1, columns.shape[2])
    strongest = torch.gather(columns, 1, index)
    filters, _ = transform.to_filters(strongest.flatten(0, 1))
    return filters.view(*strongest.shape[:2], -1), strength[:, :n_filters].contiguous()


def count_neurons(weights: Tensor, *, shared: bool) -> int:
    """Return the number of filters that are not zero, or of factors of all V_i if shared."""
    if shared:
        return int(torch.linalg.matrix_rank(gate_matrices(weights)).sum())
    strength = weights.norm(dim=-1)
    return int((strength > VISIBLE * strength.max()).sum())
