"""Cut images into the patches that a convolution sees, grouped by pooling cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convexcnn.errors import SettingError


def _cell_bounds(positions: int, cells: int) -> list[tuple[int, int]]:
    """Start and end of every pooling cell along one axis, as in ``adaptive_avg_pool2d``."""
    return [(i * positions // cells, -(-(i + 1) * positions // cells)) for i in range(cells)]


@dataclass(frozen=True)
class PatchGeometry:
    """Where the patches of an image lie and which pooling cell each belongs to.

    Args:
        image_shape: (channels, height, width) in pixels.
        filter_size: side of the square filter, in pixels.
        stride: distance between neighbouring patches, in pixels.
        padding: zeros added on every side, in pixels; no more than the image has.
        cells: pooling cells per side, a; 1 is global average pooling.

    Raises:
        SettingError: if the filter or its stride is larger than the padded image, the padding
            larger than the image, or there are more cells than patches along an axis.
    """

    image_shape: tuple[int, int, int]
    filter_size: int
    stride: int = 1
    padding: int = 0
    cells: int = 1

    def __post_init__(self) -> None:
        for name in ("filter_size", "stride", "cells"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; give a positive integer")
        _, height, width = self.image_shape
        if not 0 <= self.padding <= max(height, width):
            raise SettingError(
                f"padding is {self.padding}; give 0 to {max(height, width)} pixels, as many "
                f"as the {height}x{width} image has along its longer side"
            )
        if self.filter_size > min(height, width) + 2 * self.padding:
            raise SettingError(
                f"filter_size {self.filter_size} is larger than the {height}x{width} image with "
                f"padding {self.padding}; choose at most {min(height, width) + 2 * self.padding}"
            )
        if self.stride > max(height, width) + 2 * self.padding:
            raise SettingError(
                f"stride {self.stride} is larger than the {height}x{width} image with padding "
                f"{self.padding}; choose at most {max(height, width) + 2 * self.padding}"
            )
        if self.cells > min(self.grid):
            raise SettingError(
                f"pooling {self.cells} asks for more cells per side than the "
                f"{self.grid[0]}x{self.grid[1]} grid of patches has; choose a smaller pooling"
            )

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        _, height, width = self.image_shape
        reach = 2 * self.padding - self.filter_size
        return (height + reach) // self.stride + 1, (width + reach) // self.stride + 1

    @cached_property
    def patch_dim(self) -> int:
        """Numbers per raw patch: channels x height x width of the filter."""
        return self.image_shape[0] * self.filter_size**2

    @cached_property
    def n_cells(self) -> int:
        return self.cells**2

    @cached_property
    def cell_order(self) -> Tensor:
        """(cells, q) indices into the flattened grid: the patches of every cell, row by row.

        Cells of a grid that does not divide evenly overlap, as in ``adaptive_avg_pool2d``; one
        with fewer than q patches is filled up with the index p, one past the last patch.
        """
        rows, columns = self.grid
        index = torch.arange(rows * columns).view(rows, columns)
        members = [
            index[top:bottom, left:right].flatten()
            for top, bottom in _cell_bounds(rows, self.cells)
            for left, right in _cell_bounds(columns, self.cells)
        ]
        return torch.nn.utils.rnn.pad_sequence(
            members, batch_first=True, padding_value=rows * columns
        )

    @cached_property
    def cell_sizes(self) -> Tensor:
        """(cells,) number of patches in every cell."""
        rows, columns = self.grid
        return (self.cell_order < rows * columns).sum(1)


def extract_patches(images: Tensor, geometry: PatchGeometry) -> Tensor:
    """Return every patch of every image as a row.

    Args:
        images: (n, channels, height, width), any dtype.
        geometry: where the patches lie.

    Returns:
        (n, p, d) with p patches in row-major order, each flattened in the order channel, row,
        column: the order of ``torch.nn.Conv2d.weight.flatten(1)``.
    """
    size, stride, pad = geometry.filter_size, geometry.stride, geometry.padding
    if pad:
        images = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    windows = images.unfold(2, size, stride).unfold(3, size, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(len(images), -1, geometry.patch_dim)
