"""The certificate of (R) from patches that come in blocks: no table of its inequalities is made.

Every filter is moved along its gate into its cone, over all patches; the loss there gives L, and
|z + C' mu| for z = +-Phi_i' l_c and any mu >= 0 bounds the norm of the projection of z on cone i,
which is what the dual asks for (:mod:`.dual_bound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from convexcnn.certificates.certificate import these
from convexcnn.certificates.certify import ConeCertificate
from convexcnn.certificates.cone_projection import (
    SignedPatches,
    moved_into_cones,
    project_on_cones,
)
from convexcnn.certificates.dual_bound import (
    best_bound,
    certificate_of,
    dual_candidate,
    loss_total,
    penalty,
)
from convexcnn.programs.multipliers import SparseMultipliers

PatchBlocks = Callable[[], Iterable[Tensor]]
"""Gives the patches (b, cells, q, d) of all images in float64, as often as it is called."""

NEAREST = 256
"""Patches nearest to a gate that multipliers are sought for if none are given."""


def certify_cones(
    blocks: PatchBlocks,
    targets: Tensor,
    gates: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    beta: float,
    loss: str,
    regulariser: str,
    intercept: bool,
    multipliers: SparseMultipliers | None = None,
) -> ConeCertificate:
    """Bound the distance of a solution of (R) from its optimum, in float64.

    Args:
        blocks: patches divided by the number of patches in their cell; walked through four times.
        targets: Y, (n, k).
        gates: (g, d).
        weights: V and W, (2, k, cells, g, d).
        bias: b, (k,).
        beta: weight of the regulariser, > 0.
        loss: ``squared`` or ``cross_entropy``.
        regulariser: ``l2`` or ``group``.
        intercept: whether b is a variable; otherwise it has to be zero.
        multipliers: mu of the cones; without, the certificate projects on the walls nearest to
            every gate, which is slower and may prove less.

    Returns:
        The certificate. Its primal value is that of the solution moved into the cones.
    """
    weights, bias = weights.double(), bias.double()
    targets, gates = targets.double(), gates.double()
    moved, violation = _into_cones(blocks, gates, weights)
    flat = (moved[0] - moved[1]).flatten(1)
    scores = torch.cat([_features(block, gates) @ flat.T for block in blocks()]) + bias
    dual_point = dual_candidate(loss, scores, targets, intercept)
    pulled, start = torch.zeros_like(flat), 0
    for block in blocks():
        pulled += dual_point[start : start + len(block)].T @ _features(block, gates)
        start += len(block)
    slopes = torch.stack([pulled, -pulled]).view_as(weights)
    if multipliers is None:
        slopes = _projected(blocks, gates, slopes)
    else:
        slopes = slopes + len(targets) * _pulled_multipliers(blocks, gates, multipliers)
    dual = best_bound(loss, regulariser, dual_point, targets, slopes, beta)
    primal = loss_total(loss, scores, targets) / len(targets) + beta * penalty(regulariser, moved)
    bound = certificate_of(
        f"(1/n) {loss} loss + beta {regulariser} with cone constraints (R)",
        f"optimal among ReLU networks with the activation patterns of {these(len(gates), 'gate')}",
        primal,
        dual,
    )
    return ConeCertificate(**vars(bound), violation=violation)


def _features(block: Tensor, gates: Tensor) -> Tensor:
    """Phi of a block, (b, cells g d)."""
    on = (block @ gates.T >= 0).double()
    return torch.einsum("bcqg,bcqd->bcgd", on, block).flatten(1)


def _into_cones(blocks: PatchBlocks, gates: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Weights moved along their gates into the cones, and how far they were outside."""
    shift = weights.new_zeros(weights.shape[:-1])
    largest = lowest = 0.0
    there = weights.abs().amax(-1) > 0
    for block in blocks():
        for cell in range(weights.shape[2]):
            x = block[:, cell].flatten(0, 1)
            for gate in there[:, :, cell].any(1).any(0).nonzero()[:, 0].tolist():
                mine = there[:, :, cell, gate]
                reach = x @ gates[gate]
                sign = torch.where(reach >= 0, 1.0, -1.0).double()
                responses = (x @ weights[:, :, cell, gate][mine].T) * sign[:, None]
                largest = max(largest, float(responses.abs().max()))
                lowest = min(lowest, float(responses.min()))
                outside = (-responses).clamp_min(0)
                needed = torch.where(outside > 0, outside / reach.abs()[:, None], 0.0).amax(0)
                shift[:, :, cell, gate][mine] = torch.maximum(shift[:, :, cell, gate][mine], needed)
    violation = max(0.0, -lowest / largest) if largest else 0.0
    return moved_into_cones(weights, shift[..., None], gates), violation


def _pulled_multipliers(
    blocks: PatchBlocks, gates: Tensor, multipliers: SparseMultipliers
) -> Tensor:
    """C' mu, (2, k, cells, g, d)."""
    values = multipliers.values.double().clamp_min(0)
    total = values.new_zeros(*values.shape[:-1], gates.shape[1])
    start = 0
    for block in blocks():
        b, _, q, d = block.shape
        for cell in range(block.shape[1]):
            patches = multipliers.patches[:, :, cell] - start
            inside = (patches >= 0) & (patches < b * q) & (multipliers.patches[:, :, cell] >= 0)
            sign_of, label, gate, place = inside.nonzero().unbind(1)
            x = block[:, cell].reshape(-1, d)[patches[inside]]
            sign = torch.where((x * gates[gate]).sum(1) >= 0, 1.0, -1.0).double()
            pushed = x * (sign * values[sign_of, label, cell, gate, place])[:, None]
            total[:, :, cell].index_put_((sign_of, label, gate), pushed, accumulate=True)
        start += b * q
    return total


def _projected(blocks: PatchBlocks, gates: Tensor, slopes: Tensor) -> Tensor:
    """z + C' mu with mu sought on the walls nearest to every gate."""
    found = slopes.clone()
    for cell, near in enumerate(_nearest_patches(blocks, gates, slopes.shape[2])):
        for gate, patches in enumerate(near):
            units = patches / patches.norm(dim=1, keepdim=True).clamp_min(1e-300)
            here = slopes[:, :, cell, gate][:, :, None, None]
            nothing = here.new_zeros(*here.shape[:-1], len(patches))
            cones = SignedPatches(units[None], gates[gate][None])
            projected = project_on_cones(here, cones, nothing)
            found[:, :, cell, gate] = projected[:, :, 0, 0]
    return found


def _nearest_patches(blocks: PatchBlocks, gates: Tensor, cells: int) -> list[Tensor]:
    """The patches nearest to every gate's boundary, (g, up to NEAREST, d) for every cell."""
    d = gates.shape[1]
    kept = [gates.new_zeros(len(gates), 0, d) for _ in range(cells)]
    for block in blocks():
        for cell in range(cells):
            x = block[:, cell].reshape(-1, d)
            distance = _angles((x @ gates.T).T, x.norm(dim=1))
            near = distance.topk(min(NEAREST, len(x)), 1, largest=False).indices
            both = torch.cat([kept[cell], x[near]], 1)
            distance = _angles((both @ gates[..., None])[..., 0], both.norm(dim=2))
            chosen = distance.topk(min(NEAREST, both.shape[1]), 1, largest=False).indices
            kept[cell] = both.gather(1, chosen[..., None].expand(-1, -1, d))
    return kept


def _angles(responses: Tensor, norms: Tensor) -> Tensor:
    """Sines of the angles of patches to walls; a patch that is zero is none, and far from all."""
    return torch.where(norms > 0, responses.abs() / norms, torch.inf)
