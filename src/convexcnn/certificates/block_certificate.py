"""Certificates of trained blocks, from the images they were trained on and nothing of a solver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor

from convexcnn.certificates.certificate import (
    Certificate,
    GatedBlock,
    cell_bounds,
    feature_rows,
)
from convexcnn.certificates.certify import certify
from convexcnn.certificates.cone_projection import cones_of
from convexcnn.certificates.dual_bound import (
    centred_residual,
    certify_gated,
    dual_candidate,
    loss_total,
)
from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import SettingError
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program

CHUNK = 100
"""Images whose features are in memory at once."""


@dataclass(frozen=True)
class BlockEvidence:
    """What one pass over the training images says of a block.

    Args:
        certificate: the bound.
        loss: mean training loss, mirror images included.
        residual: (n, k), the negative gradient of the loss, with columns that sum to zero.
            Images that have weights count as often as these say, in both. Of several processes,
            each has its own rows.
    """

    certificate: Certificate
    loss: float
    residual: Tensor


def certify_block(
    block: GatedBlock,
    stream: ImageStream,
    kind: ProgramKind,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> BlockEvidence:
    """Bound the distance of a block from the optimum of its program, in float64.

    Args:
        block: the trained block in raw (scaled) pixels.
        stream: the images that it was trained on, mirrored as in training.
        kind: the program that it was trained by. (R) is gathered in memory.
        chunk: images per block of Phi.
        progress: called with the number of rows done; of (R) with all of them, at the end.

    Returns:
        The certificate, the training loss, and the residual.

    Raises:
        SettingError: if beta is not positive.
        RunError: if features do not repeat to the last bit.
    """
    block = block.double()
    if kind.formulation == "relu":
        evidence = _certify_cones(block, stream, kind)
        if progress is not None:
            progress(len(stream))
        return evidence
    roots = stream.roots()
    if roots is not None and kind.loss != "squared":
        raise SettingError(f"images with weights have a certificate for squared loss, not {kind}")
    found = certify_gated(
        feature_rows(block, stream, chunk=chunk, progress=progress),
        block.weights,
        block.bias,
        beta=block.beta,
        loss=kind.loss,
        regulariser=kind.regulariser,
        intercept=kind.intercept,
        roots=None if roots is None else roots[:, 0],
        processes=stream.processes,
    )
    if roots is None:
        rows = found.scores, found.targets
        return evidence_of(found.certificate, kind, *rows, stream.processes)
    total = stream.processes.total(loss_total(kind.loss, found.scores, found.targets))
    loss = total / len(stream)
    return BlockEvidence(found.certificate, loss, roots * found.dual_point)


def _certify_cones(block: GatedBlock, stream: ImageStream, kind: ProgramKind) -> BlockEvidence:
    program = gathered_program(block, stream, kind)
    scores, targets = program.scores(block.weights, block.bias), program.targets
    multipliers = cone_multipliers(program, scores)
    certificate = certify(program, block.weights, block.bias, multipliers)
    return evidence_of(certificate, kind, scores, targets)


def cone_multipliers(program: Program, scores: Tensor) -> Tensor:
    """Multipliers of the cones from the scores alone, by non-negative least squares.

    minimise |+-Phi_i' l_c + C_i' mu| over mu >= 0, whose value is the norm of the projection of
    +-Phi_i' l_c on cone i (Lawson & Hanson 1974). Where a norm is within its bound already, mu = 0.

    Args:
        program: (R).
        scores: F, (n, k).

    Returns:
        mu, (2, k, cells, g, n q), in the scale of the program.
    """
    n, (k, cells, gates, _) = len(scores), program.shape
    residual = dual_candidate(program.loss, scores, program.targets, program.intercept)
    pulled = (residual.T @ program.features).view(program.shape)
    cones = cones_of(program)
    found = pulled.new_zeros(2, k, cells, gates, cones.rows)
    bound = 0.0 if program.regulariser == "l2" else n * program.beta
    for s, c, cell, gate in (pulled.norm(dim=-1) > bound).expand(2, -1, -1, -1).nonzero().tolist():
        rows = cones.matrix_of(cell, gate)
        slope = pulled[c, cell, gate] * (-1 if s else 1)
        with suppress(RuntimeError):  # no convergence: mu = 0 is a bound too
            found[s, c, cell, gate] = torch.from_numpy(nnls(rows.T.numpy(), -slope.numpy())[0])
    return found / n


def evidence_of(
    certificate: Certificate,
    kind: ProgramKind,
    scores: Tensor,
    targets: Tensor,
    processes: Processes = ALONE,
) -> BlockEvidence:
    """Evidence from the scores (n, k) of the training images, which processes may share."""
    total = processes.total(loss_total(kind.loss, scores, targets))
    loss = total / processes.total(len(targets))
    residual = centred_residual(kind.loss, scores, targets, kind.intercept, processes)
    return BlockEvidence(certificate, loss, residual)


def gathered_program(block: GatedBlock, stream: ImageStream, kind: ProgramKind) -> Program:
    """The program of a block with all patches in memory, cut by plain convolutions.

    Args:
        block: in float64.
        stream: training images.
        kind: which program.
    """
    assert block.gate_vectors is not None, "the cones of (R) are made of gates and patches"
    patches, targets = [], []
    for images, block_targets in stream.blocks(CHUNK):
        coordinates = torch.nn.functional.conv2d(
            images.double(), block.basis, block.basis_bias, block.stride, block.padding
        )
        patches.append(_by_cell(coordinates, block.cells, average=block.pool == "average"))
        targets.append(block_targets.double())
    return Program(
        torch.cat(patches),
        block.gate_vectors,
        torch.cat(targets),
        block.beta,
        kind.loss,
        kind.regulariser,
        kind.formulation,
        kind.intercept,
        kind.pooling,
    )


def _by_cell(coordinates: Tensor, cells: int, *, average: bool) -> Tensor:
    """Patches (n, cells^2, q, d), over the size of their cell for averages, from a grid of them."""
    rows, columns = coordinates.shape[2:]
    inside = [
        coordinates[:, :, top:bottom, left:right].flatten(2).transpose(1, 2)
        for top, bottom in cell_bounds(rows, cells)
        for left, right in cell_bounds(columns, cells)
    ]
    largest = max(patches.shape[1] for patches in inside)
    padded = [
        torch.nn.functional.pad(
            patches / (patches.shape[1] if average else 1), (0, 0, 0, largest - patches.shape[1])
        )
        for patches in inside
    ]
    return torch.stack(padded, 1)
