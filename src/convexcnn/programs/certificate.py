"""Certificates: a duality gap in float64, by code that shares nothing with any solver.

For  minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  every L (n, k) with columns that sum
to zero gives the lower bound

    (1/n) <L, Y> - (1/2n) |L|^2 - |Phi' L|^2 / (2 beta n^2).

The residual L = Y - Phi V - 1 b', centred, attains it at the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.stream import ImageStream


@dataclass(frozen=True)
class Certificate:
    """How far a solution can be from the optimum of its program, at most.

    Args:
        program: the program in symbols.
        scope: among which networks the solution is optimal, in words.
        primal: objective of the solution.
        dual: a lower bound of the optimum.
        gap: primal - dual, an upper bound of the distance to the optimum.
        relative_gap: gap / primal.
        dtype: arithmetic of the evaluation.
    """

    program: str
    scope: str
    primal: float
    dual: float
    gap: float
    relative_gap: float
    dtype: str = "float64"

    def to_dict(self) -> dict[str, str | float]:
        return asdict(self)


@dataclass(frozen=True)
class GatedBlock:
    """A gated block in raw pixels: everything a certificate needs to know of a trained model.

    Args:
        gates: (g, channels, f, f) gate filters, and their thresholds ``gate_bias`` (g,).
        basis: (d, channels, f, f) linear coordinates of a patch, and ``basis_bias`` (d,).
        stride: of the filters, in pixels.
        padding: zeros around the image, in pixels.
        cells: pooling cells per side.
        weights: V, (k, cells^2, g, d).
        bias: b, (k,).
        beta: weight of (1/2)|V|^2.
        pool: ``average`` or ``max`` over the patches of a cell.
    """

    gates: Tensor
    gate_bias: Tensor
    basis: Tensor
    basis_bias: Tensor
    stride: int
    padding: int
    cells: int
    weights: Tensor
    bias: Tensor
    beta: float
    pool: str = "average"

    def double(self) -> GatedBlock:
        tensors: Any = {k: v.double() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def gated_features(block: GatedBlock, images: Tensor) -> Tensor:
    """Phi by plain convolutions, (n, cells^2 * g * d): slow, obvious, in the images' precision."""
    conv = torch.nn.functional.conv2d
    settings = {"stride": block.stride, "padding": block.padding}
    responses = conv(images, block.gates, block.gate_bias, **settings)
    coordinates = conv(images, block.basis, block.basis_bias, **settings)
    rows, columns = responses.shape[2:]
    features = []
    for top, bottom in _cells(rows, block.cells):
        for left, right in _cells(columns, block.cells):
            inside = responses[:, :, top:bottom, left:right].flatten(2)
            values = coordinates[:, :, top:bottom, left:right].flatten(2)
            if block.pool == "max":
                largest, best = inside.max(2)
                index = best[:, None].expand(-1, values.shape[1], -1)
                taken = values.gather(2, index) * (largest >= 0)[:, None]
                features.append(taken.transpose(1, 2))
            else:
                on = (inside >= 0).to(images.dtype)
                features.append(on @ values.transpose(1, 2) / inside.shape[2])
    return torch.stack(features, 1).flatten(1)


def _cells(positions: int, cells: int) -> list[tuple[int, int]]:
    return [(i * positions // cells, -(-(i + 1) * positions // cells)) for i in range(cells)]


def certify_ridge(
    block: GatedBlock,
    stream: ImageStream,
    *,
    chunk: int = 100,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Bound the distance of a squared-loss, `l2` solution from the optimum over its gates.

    Args:
        block: the trained block in raw (scaled) pixels.
        stream: the images that it was trained on, mirrored as in training.
        chunk: images per block of Phi.
        progress: called with the number of images done.

    Returns:
        The certificate.

    Raises:
        SettingError: if beta is not positive: the bound needs a regulariser.
    """
    if block.beta <= 0:
        raise SettingError("a certificate needs beta > 0; train with a positive beta")
    block = block.double()
    gates = len(block.gates)
    weights = block.weights.flatten(1)
    n = len(stream)
    loss = inner = square = 0.0
    pulled = torch.zeros_like(weights)  # Phi' L
    feature_sum = weights.new_zeros(weights.shape[1])
    residual_sum = weights.new_zeros(len(weights))
    target_sum = weights.new_zeros(len(weights))
    done = 0
    for images, targets in stream.blocks(chunk):
        phi = gated_features(block, images.double())
        y = targets.double()
        residual = y - phi @ weights.T - block.bias
        loss += 0.5 * float(residual.square().sum())
        inner += float((residual * y).sum())
        square += float(residual.square().sum())
        pulled += residual.T @ phi
        feature_sum += phi.sum(0)
        residual_sum += residual.sum(0)
        target_sum += y.sum(0)
        done += len(images)
        if progress is not None:
            progress(done)
    primal = loss / n + 0.5 * block.beta * float(weights.square().sum())
    # Centre the residual: L = residual - mean.
    mean = residual_sum / n
    inner -= float(mean @ target_sum)
    square -= n * float(mean @ mean)
    pulled -= torch.outer(mean, feature_sum)
    penalty = float(pulled.square().sum()) / (2 * block.beta * n**2)
    # The best multiple t L of this dual point: a parabola in t.
    scale = (inner / n) / (square / n + 2 * penalty) if square + penalty else 0.0
    dual = scale * inner / n - scale**2 * (square / (2 * n) + penalty)
    gap = primal - dual
    return Certificate(
        program="squared loss + l2 over gated ReLU features (G)",
        scope=f"optimal among networks with these {gates} gates",
        primal=primal,
        dual=dual,
        gap=gap,
        relative_gap=gap / primal if primal else 0.0,
    )
