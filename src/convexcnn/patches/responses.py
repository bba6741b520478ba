"""Pooled ReLU responses of neurons: convolutions in pieces that stay in cache, with a gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import identity_transform

CACHE_BYTES = 8 * 2**20
"""Responses of about this size are computed at once and pooled before they leave the cache."""


class NeuronFeatures:
    """phi_i(x) = (1/q) sum_{l in cell} max(0, x_l . a_i + c_i) for every cell and neuron i.

    These are the gated features of gates a_i, restricted to multiples of the gate itself: of a
    whole patch, only the response of its own neuron is left.

    Args:
        geometry: where patches and pooling cells lie.
        filters: (g, channels, f, f) neurons a_i in (scaled) pixels.
        thresholds: (g,) their constants c_i.
    """

    def __init__(self, geometry: PatchGeometry, filters: Tensor, thresholds: Tensor) -> None:
        self.geometry = geometry
        self.filters = filters.contiguous(memory_format=torch.channels_last)
        self.thresholds = thresholds
        self.averages = cell_averages(geometry).to(filters)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(cells, g, 1): a feature vector is this tensor, flattened."""
        return self.geometry.n_cells, len(self.filters), 1

    @property
    def n_features(self) -> int:
        return self.geometry.n_cells * len(self.filters)

    @property
    def block_size(self) -> int:
        """Images whose responses stay in cache."""
        return images_at_once(self.geometry, self.filters)

    def responses(self, images: Tensor) -> Tensor:
        """Return max(0, x_l . a_i + c_i), (n, g, rows, columns), of images, channels last."""
        images = images.contiguous(memory_format=torch.channels_last)
        return _convolve(images, self.filters, self.thresholds, self.geometry).clamp_min_(0)

    def pool(self, responses: Tensor) -> Tensor:
        """Return averages over cells, (n, n_features), of responses (n, g, rows, columns)."""
        return _pool(responses, self.averages).flatten(1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return Phi (n, n_features), flattened from (n, cells, g), of scaled images."""
        pieces = torch.split(images, self.block_size)
        return torch.cat([self.pool(self.responses(piece)) for piece in pieces])


def pooled_relu(
    images: Tensor, filters: Tensor, thresholds: Tensor, geometry: PatchGeometry
) -> Tensor:
    """:class:`NeuronFeatures` with a gradient by filters and thresholds, in the images' precision.

    Args:
        images: (n, channels, height, width), channels last.
        filters: (g, channels, f, f).
        thresholds: (g,).
        geometry: where patches and pooling cells lie.

    Returns:
        (n, cells, g) float32.
    """
    found: Tensor = _PooledReLU.apply(images, filters, thresholds, geometry)  # type: ignore[no-untyped-call]
    return found


class _PooledReLU(torch.autograd.Function):
    """Keeps responses as they are computed, and turns them in place into the filters' gradient.

    What is pooled by averages has a gradient that is constant on the open patches of a cell.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, filters: Tensor, thresholds: Tensor, geometry: PatchGeometry
    ) -> Tensor:
        weight = filters.to(images.dtype).contiguous(memory_format=torch.channels_last)
        bias = thresholds.to(images.dtype)
        ctx.averages = cell_averages(geometry).to(images)
        ctx.size = images_at_once(geometry, weight)
        ctx.geometry, ctx.images, ctx.weight = geometry, images, weight
        ctx.responses = [
            _convolve(piece, weight, bias, geometry).clamp_min_(0)
            for piece in torch.split(images, ctx.size)
        ]
        return torch.cat([_pool(found, ctx.averages).float() for found in ctx.responses])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        stride, padding = ctx.geometry.stride, ctx.geometry.padding
        gradient = gradients[0].to(ctx.images.dtype)
        by_filter = ctx.weight.new_zeros(ctx.weight.shape, dtype=torch.float32)
        by_threshold = by_filter.new_zeros(len(by_filter))
        image_pieces, parts = (torch.split(whole, ctx.size) for whole in (ctx.images, gradient))
        for images, responses, part in zip(image_pieces, ctx.responses, parts, strict=True):
            by_place = torch.matmul(ctx.averages.T, part)
            slopes = responses.sign_().permute(0, 2, 3, 1).flatten(1, 2).mul_(by_place)
            slopes = slopes.view(len(images), *ctx.geometry.grid, -1).permute(0, 3, 1, 2)
            _, weight, bias = torch.ops.aten.convolution_backward(
                slopes,
                images,
                ctx.weight,
                [len(by_threshold)],
                [stride, stride],
                [padding, padding],
                [1, 1],
                False,
                [0, 0],
                1,
                [False, True, True],
            )
            by_filter += weight
            by_threshold += bias
        return None, by_filter, by_threshold, None


def cell_averages(geometry: PatchGeometry) -> Tensor:
    """The matrix (cells, patches) that averages over the patches of every cell."""
    rows, columns = geometry.grid
    averages = torch.zeros(geometry.n_cells, rows * columns + 1)
    averages.scatter_(1, geometry.cell_order, 1.0)
    return averages[:, :-1] / geometry.cell_sizes[:, None]


def images_at_once(geometry: PatchGeometry, filters: Tensor) -> int:
    """Images whose responses take about ``CACHE_BYTES``, never fewer than 8."""
    rows, columns = geometry.grid
    per_image = rows * columns * len(filters) * filters.element_size()
    return max(8, CACHE_BYTES // per_image)


def _convolve(images: Tensor, filters: Tensor, bias: Tensor, geometry: PatchGeometry) -> Tensor:
    settings = {"stride": geometry.stride, "padding": geometry.padding}
    return torch.nn.functional.conv2d(images, filters, bias, **settings)


def _pool(responses: Tensor, averages: Tensor) -> Tensor:
    """(n, g, rows, columns), channels last, to (n, cells, g)."""
    return torch.matmul(averages, responses.permute(0, 2, 3, 1).flatten(1, 2))


class KnownFeatures(GatedFeatures):
    """Phi that is known: the images of its streams are feature vectors (cells g, 1, 1).

    Args:
        shape: (cells, g, 1) that a feature vector has.
        device: where it is.
        dtype: that features are given in.
        columns: the numbers of an image that are its features; None for all.
    """

    patchwise = False

    def __init__(
        self,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        columns: Tensor | None = None,
    ) -> None:
        self.columns = columns
        cells, gates, _ = shape
        side = math.isqrt(cells)
        geometry = PatchGeometry((1, side, side), 1, cells=side)
        open_gates = torch.zeros(gates, 1, device=device, dtype=dtype)
        super().__init__(geometry, identity_transform(1).to(device), open_gates)

    @property
    def block_size(self) -> int:
        return max(4, CACHE_BYTES // (4 * self.n_features))

    def double(self) -> KnownFeatures:
        return KnownFeatures(self.shape, self.gates.device, torch.float64, self.columns)

    def restricted(self, kept: Tensor) -> KnownFeatures:
        cells, gates, d = self.shape
        places = torch.arange(cells * gates, device=kept.device).view(cells, gates)
        columns = places[:, kept].flatten()
        columns = columns if self.columns is None else self.columns[columns]
        shape = cells, len(places[0, kept]), d
        return KnownFeatures(shape, self.gates.device, self.gates.dtype, columns)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        found = images.flatten(1).to(self.gates.dtype)
        found = found if self.columns is None else found[:, self.columns]
        return found if out is None else out.copy_(found)
