"""What a certificate says, and the features it is read from, by code that no solver shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convexcnn.errors import RunError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream

PROBED = 4
"""Images whose features are computed twice, to see whether the bits are the same."""


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


def these(count: int, what: str) -> str:
    """So many gates or neurons of a scope, in words.

    Args:
        count: at least one.
        what: one of them.
    """
    return f"this one {what}" if count == 1 else f"these {count} {what}s"


@dataclass(frozen=True)
class GatedBlock:
    """A gated block in raw pixels: everything a certificate needs to know of a trained model.

    Args:
        gates: (g, channels, f, f) gate filters, and their thresholds ``gate_bias`` (g,).
        basis: (d, channels, f, f) linear coordinates of a patch, and ``basis_bias`` (d,).
        stride: of the filters, in pixels.
        padding: zeros around the image, in pixels.
        cells: pooling cells per side.
        weights: V, (k, cells^2, g, d); V and W, (2, k, cells^2, g, d), for (R).
        bias: b, (k,).
        beta: weight of the regulariser.
        pool: ``average`` or ``max`` over the patches of a cell.
        gate_vectors: (g, d) the gates in the coordinates of ``basis``; needed for (R) only.
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
    gate_vectors: Tensor | None = None

    @classmethod
    def of(cls, features: GatedFeatures, weights: Tensor, bias: Tensor, beta: float) -> GatedBlock:
        """The block of a solution in float64, with its gates and coordinates as filters.

        Args:
            features: geometry, transform and gates of the solution.
            weights: V, or V and W, of as many numbers as the block's.
            bias: b, (k,).
            beta: weight of the regulariser.
        """
        transform, geometry = features.transform.to("cpu").double(), features.geometry
        gates = features.gates.cpu().double()
        filters, thresholds = transform.to_filters(gates)
        basis, shifts = transform.to_filters(torch.eye(transform.dim, dtype=torch.float64))
        side = geometry.filter_size
        window = geometry.image_shape[0], side, side
        signs = weights.shape[:-1] if weights.dim() == 5 else ()
        return cls(
            gates=filters.view(-1, *window),
            gate_bias=thresholds,
            gate_vectors=gates,
            basis=basis.view(-1, *window),
            basis_bias=shifts,
            stride=geometry.stride,
            padding=geometry.padding,
            cells=geometry.cells,
            weights=weights.cpu().double().reshape(*signs[:1], len(bias), *features.shape),
            bias=bias.cpu().double(),
            beta=beta,
            pool=features.pool,
        )

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
    for top, bottom in cell_bounds(rows, block.cells):
        for left, right in cell_bounds(columns, block.cells):
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


def cell_bounds(positions: int, cells: int) -> list[tuple[int, int]]:
    """First and last-plus-one position of every pooling cell along an axis."""
    return [(i * positions // cells, -(-(i + 1) * positions // cells)) for i in range(cells)]


def feature_rows(
    block: GatedBlock,
    stream: ImageStream,
    *,
    chunk: int = 100,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield Phi (b, n_features) and targets (b, k) of a stream in float64.

    Args:
        block: the trained block in raw (scaled) pixels.
        stream: images, mirrored as in training.
        chunk: images per block of Phi.
        progress: called with the number of rows done.

    Raises:
        RunError: if Phi is not the same for the same images: nothing could be said of it.
    """
    compute = partial(gated_features, block.double())
    for phi, targets in repeatable_rows(compute, stream, chunk, torch.float64, progress):
        yield phi, targets.double()


def repeatable_rows(
    compute: Callable[[Tensor], Tensor],
    stream: ImageStream,
    chunk: int,
    dtype: torch.dtype,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield Phi and targets of a stream, once the first images gave the same Phi twice.

    Args:
        compute: images (b, channels, height, width) to Phi (b, n_features).
        stream: images, in all views of training.
        chunk: images per block of Phi.
        dtype: that ``compute`` gets images in.
        progress: called with the number of rows done.

    Raises:
        RunError: if Phi is not the same for the same images: nothing could be said of it.
    """
    done = 0
    for images, targets in stream.blocks(chunk):
        images = images.to(dtype)
        if not done:
            require_same_bits(partial(compute, images[:PROBED]))
        yield compute(images), targets
        done += len(images)
        if progress is not None:
            progress(done)


def require_same_bits(compute: Callable[[], Tensor]) -> None:
    """Compute something twice and compare every bit.

    Raises:
        RunError: if they differ.
    """
    first = compute().clone()
    if not torch.equal(first, compute()):
        raise RunError(
            "the same images gave two different feature vectors: this processor or library does "
            "not compute reproducibly, and no certificate would mean anything; run again with "
            "OMP_NUM_THREADS=1, or with device cpu"
        )
