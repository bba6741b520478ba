"""Where a sliding window stands on an image: the grid of positions of occlusion."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from convexcnn.errors import SettingError

Box: TypeAlias = int | Sequence[int]
"""A side in pixels, (height, width), or (channels, height, width)."""

LARGEST_SIDE = 8
"""Of a window, in pixels, where none is given."""


@dataclass(frozen=True)
class Windows:
    """All positions of a window: i * stride along every axis, the last ones cut at the edge.

    Args:
        image_shape: (channels, height, width).
        size: (channels, height, width) of the window.
        stride: steps along the three axes.

    Raises:
        SettingError: a window larger than the image, or a stride that leaves pixels uncovered.
    """

    image_shape: tuple[int, int, int]
    size: tuple[int, int, int]
    stride: tuple[int, int, int]

    def __post_init__(self) -> None:
        for whole, window, step in zip(self.image_shape, self.size, self.stride, strict=True):
            if not 1 <= window <= whole:
                raise SettingError(
                    f"window {self.size} does not fit an image of {self.image_shape} (channels, "
                    f"height, width); choose a smaller window"
                )
            if step < 1 or (step > window and window < whole):
                raise SettingError(
                    f"stride {self.stride} skips pixels between windows of {self.size}; choose a "
                    f"stride from 1 to the window's side"
                )

    @classmethod
    def of(
        cls, image_shape: Sequence[int], window: Box | None = None, stride: Box | None = None
    ) -> Windows:
        """Windows from the short forms: a side, (height, width), or all three axes.

        A window of one or two numbers covers all channels. None is a side of a quarter of the
        image's shorter side, from 1 to 8, and a stride of 2, or 1 along a side of 1.
        """
        channels, height, width = image_shape
        if window is None:
            window = max(1, min(LARGEST_SIDE, min(height, width) // 4))
        size = _axes("window", window, channels)
        if stride is None:
            step = (size[0], min(2, size[1]), min(2, size[2]))
        else:
            step = _axes("stride", stride, channels)
        return cls((channels, height, width), size, step)

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    @cached_property
    def axes(self) -> tuple[Tensor, ...]:
        """For each of the three axes (count, 2): start and end of the windows along it."""
        axes = []
        for whole, window, step in zip(self.image_shape, self.size, self.stride, strict=True):
            count = -(-(whole - window) // step) + 1
            start = torch.arange(count) * step
            axes.append(torch.stack([start, (start + window).clamp_max(whole)], 1))
        return tuple(axes)

    @cached_property
    def bounds(self) -> Tensor:
        """(m, 3, 2): start and end of every window along every axis."""
        places = torch.cartesian_prod(*(torch.arange(len(axis)) for axis in self.axes))
        return torch.stack([axis[places[:, i]] for i, axis in enumerate(self.axes)], 1)

    def masks(self, rows: slice) -> Tensor:
        """True where each of some windows lies.

        All at once they may need more memory than there is: a byte per window and pixel.

        Args:
            rows: which windows, b of them.

        Returns:
            (b, channels, height, width), or (b, 1, height, width) if windows have all channels.
        """
        channels, height, width = (
            _covered(self.bounds[rows, axis], whole) for axis, whole in enumerate(self.image_shape)
        )
        if self.size[0] == self.image_shape[0]:
            channels = channels[:, :1]
        return channels[:, :, None, None] & height[:, None, :, None] & width[:, None, None, :]

    def averaged(self, differences: Tensor) -> Tensor:
        """Average over every pixel the differences of the windows that cover it.

        The windows are all combinations of positions along the axes, so that averages are taken
        along one axis after the other.

        Args:
            differences: (n, m).

        Returns:
            (n, channels, height, width).
        """
        maps = differences.view(len(differences), *(len(axis) for axis in self.axes))
        for number in (2, 1, 0):
            covered = _covered(self.axes[number], self.image_shape[number]).to(maps.dtype)
            sums = maps.movedim(number + 1, -1) @ covered
            maps = (sums / covered.sum(0)).movedim(-1, number + 1)
        return maps.contiguous()


def _covered(bounds: Tensor, whole: int) -> Tensor:
    """(m, whole): True for the places along an axis that lie in each of the bounds (m, 2)."""
    place, (start, end) = torch.arange(whole), bounds.unbind(1)
    return (place >= start[:, None]) & (place < end[:, None])


def _axes(name: str, box: Box, channels: int) -> tuple[int, int, int]:
    given: Any = box if np.ndim(box) else (box,)
    try:
        sides = tuple(operator.index(side) for side in given)
    except (TypeError, ValueError):
        sides = ()
    match sides:
        case (side,):
            return channels, side, side
        case (height, width):
            return channels, height, width
        case (depth, height, width):
            return depth, height, width
        case _:
            raise SettingError(
                f"{name} is {box!r}; give a side, (height, width) or (channels, height, width), in "
                "whole numbers"
            )
