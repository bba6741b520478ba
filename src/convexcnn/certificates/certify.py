"""Certificates of programs in memory: (G), and (R) with its cones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.certificates.certificate import Certificate, these
from convexcnn.certificates.cone_projection import (
    Cones,
    cones_of,
    moved_into_cones,
    project_on_cones,
    taken_patches,
)
from convexcnn.certificates.dual_bound import (
    best_bound,
    certificate_of,
    certify_gated,
    dual_candidate,
    loss_total,
    penalty,
)
from convexcnn.programs.multipliers import SparseMultipliers
from convexcnn.programs.program import Program

ROWS = 256


@dataclass(frozen=True)
class ConeCertificate(Certificate):
    """A certificate of (R).

    Args:
        violation: worst violation of a cone by the solution as it was given, relative to the
            largest response of any patch. The primal value is that of the solution moved into
            the cones.
    """

    violation: float = 0.0


def certify(
    program: Program,
    weights: Tensor,
    bias: Tensor,
    multipliers: Tensor | SparseMultipliers | None = None,
) -> Certificate:
    """Bound the distance of a solution from the optimum of its program, in float64.

    Args:
        program: (G) or (R).
        weights: V, (k, cells, g, d); V and W, (2, k, cells, g, d), for (R).
        bias: b, (k,).
        multipliers: for (R), mu >= 0 of the cones, (2, k, cells, g, n q) or sparse, in the scale
            of the program; a start for better ones, zero by default.

    Returns:
        The certificate. That of (R) is of the solution moved into the cones.
    """
    if program.formulation == "relu":
        if isinstance(multipliers, SparseMultipliers):
            multipliers = multipliers.dense(program.patches.shape[0] * program.patches.shape[2])
        return _certify_relu(program, weights.double(), bias.double(), multipliers)
    return certify_gated(
        zip(_feature_rows(program), torch.split(program.targets, ROWS), strict=True),
        weights,
        bias,
        beta=program.beta,
        loss=program.loss,
        regulariser=program.regulariser,
        intercept=program.intercept,
    ).certificate


def _feature_rows(program: Program) -> Iterator[Tensor]:
    """Phi gate by gate and cell by cell, in blocks of rows."""
    for start in range(0, len(program.patches), ROWS):
        patches = program.patches[start : start + ROWS].double()
        columns = []
        for cell in range(patches.shape[1]):
            for gate in program.gates.double():
                taken = taken_patches(patches[:, cell], gate, program.pooling)
                columns.append((patches[:, cell] * taken[..., None]).sum(1))
        yield torch.cat(columns, 1)


def _certify_relu(
    program: Program, weights: Tensor, bias: Tensor, multipliers: Tensor | None
) -> ConeCertificate:
    cones = cones_of(program)
    feasible, violation = _into_cones(weights, program.gates.double(), cones)
    flat = (feasible[0] - feasible[1]).flatten(1)
    rows = list(_feature_rows(program))
    scores = torch.cat([phi @ flat.T for phi in rows]) + bias
    n, targets = len(scores), program.targets.double()
    dual_point = dual_candidate(program.loss, scores, targets, program.intercept)
    pulled = (dual_point.T @ torch.cat(rows)).view_as(weights[0])
    slopes = torch.stack([pulled, -pulled])
    start = weights.new_zeros(*weights.shape[:-1], cones.rows)
    if multipliers is not None:
        start = multipliers.double().clamp_min(0) * n
    projected = project_on_cones(slopes, cones, start)
    dual = best_bound(
        program.loss, program.regulariser, dual_point, targets, projected, program.beta
    )
    primal = loss_total(program.loss, scores, targets) / n
    primal += program.beta * penalty(program.regulariser, feasible)
    bound = certificate_of(
        f"(1/n) {program.loss} loss + beta {program.regulariser} with cone constraints (R)",
        "optimal among ReLU networks with the activation patterns of "
        f"{these(len(program.gates), 'gate')}",
        primal,
        dual,
    )
    return ConeCertificate(**vars(bound), violation=violation)


def _into_cones(weights: Tensor, gates: Tensor, cones: Cones) -> tuple[Tensor, float]:
    """Weights moved along their gates into the cones, and how far they were outside."""
    responses = cones.responses(weights)
    reach = cones.responses(gates.expand(weights.shape[-3:]))
    scale = float(responses.abs().max())
    violation = max(0.0, -float(responses.min())) / scale if scale else 0.0
    missing = (-responses).clamp_min(0)
    # Rounding of one response in 1e15 is not a violation.
    missing = torch.where(missing <= 1e-15 * scale, 0.0, missing)
    shift = torch.where(missing > 0, missing / reach, 0.0).amax(-1, keepdim=True)
    return moved_into_cones(weights, shift, gates), violation
