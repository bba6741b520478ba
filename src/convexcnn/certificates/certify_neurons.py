"""Certificates of heads on pooled neurons: the gated program with V_i a multiple of gate i."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from convexcnn.certificates.certificate import (
    Certificate,
    cell_bounds,
    repeatable_rows,
    these,
)
from convexcnn.certificates.dual_bound import Rows, certify_gated
from convexcnn.distributed import ALONE, Processes
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind

CHUNK = 64
"""Images whose responses are in memory at once."""


def certify_neurons(
    rows: Rows,
    weights: Tensor,
    bias: Tensor,
    beta: float,
    kind: ProgramKind,
    processes: Processes = ALONE,
) -> Certificate:
    """Bound the distance of a head from the optimum over its pooled neurons, in float64.

    The program is that over Phi as it is given, rounded to float32: the network computes it so.

    Args:
        rows: Phi (b, cells g) and targets (b, k), block by block.
        weights: V, (k, cells, g, 1).
        bias: b, (k,).
        beta: weight of the regulariser, > 0.
        kind: loss and regulariser.
        processes: that share the rows; each gives its own.

    Raises:
        SettingError: if beta is not positive.
    """
    certificate = certify_gated(
        rows,
        weights.cpu(),
        bias.cpu(),
        beta=beta,
        loss=kind.loss,
        regulariser=kind.regulariser,
        intercept=kind.intercept,
        processes=processes,
    ).certificate
    return replace(
        certificate,
        program=f"(1/n) {kind.loss} loss + beta {kind.regulariser} over pooled ReLU responses: "
        f"(G) with V_i = a_i v_i'",
        scope=f"optimal among heads on {these(weights.shape[2], 'neuron')}, given the frozen input "
        f"of the block",
    )


def neuron_rows(
    filters: Tensor,
    thresholds: Tensor,
    stream: ImageStream,
    *,
    stride: int,
    padding: int,
    cells: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give Phi (b, cells g) and targets (b, k) of a stream by plain convolutions, in float32.

    Args:
        filters: (g, channels, f, f).
        thresholds: (g,).
        stream: images, in all views of training.
        stride: of the filters, in pixels.
        padding: zeros around the image, in pixels.
        cells: pooling cells per side.
        progress: called with the number of rows done.

    Raises:
        RunError: if Phi is not the same for the same images: nothing could be said of it.
    """

    def pooled(images: Tensor) -> Tensor:
        responses = torch.nn.functional.conv2d(images, filters, thresholds, stride, padding).relu()
        rows, columns = responses.shape[2:]
        means = [
            responses[:, :, top:bottom, left:right].mean((2, 3))
            for top, bottom in cell_bounds(rows, cells)
            for left, right in cell_bounds(columns, cells)
        ]
        return torch.stack(means, 1).flatten(1)

    return repeatable_rows(pooled, stream, CHUNK, torch.float32, progress)
