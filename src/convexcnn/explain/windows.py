"""Where a sliding window stands on an image: the grid of positions of occlusion."""

from __future__ import annotations

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
    def of(cls, image_shape: Sequence[int], window: Box, stride: Box) -> Windows:
        """Windows from the short forms: a side, (height, width), or all three axes.

        A window of one or two numbers covers all channels.
        """
        channels, height, width = image_shape
        size, step = _axes("window", window, channels), _axes("stride", stride, channels)
        return cls((channels, height, width), size, step)

    def __len__(self) -> int:
        return len(self.bounds)

    @cached_property
    def bounds(self) -> Tensor:
        """(m, 3, 2): start and end of every window along every axis."""
        axes = []
        for whole, window, step in zip(self.image_shape, self.size, self.stride, strict=True):
            count = -(-(whole - window) // step) + 1
            start = torch.arange(count) * step
            axes.append(torch.stack([start, (start + window).clamp_max(whole)], 1))
        places = torch.cartesian_prod(*(torch.arange(len(axis)) for axis in axes))
        return torch.stack([axis[places[:, i]] for i, axis in enumerate(axes)], 1)

    @cached_property
    def masks(self) -> Tensor:
        """(m, channels, height, width): True where a window lies."""
        inside = []
        for axis, whole in enumerate(self.image_shape):
            place = torch.arange(whole)
            start, end = self.bounds[:, axis].unbind(1)
            inside.append((place >= start[:, None]) & (place < end[:, None]))
        channels, height, width = inside
        return channels[:, :, None, None] & height[:, None, :, None] & width[:, None, None, :]

    def averaged(self, differences: Tensor) -> Tensor:
        """Average over every pixel the differences of the windows that cover it.

        Args:
            differences: (n, m).

        Returns:
            (n, channels, height, width).
        """
        masks = self.masks.flatten(1).to(differences.dtype)
        maps = differences @ masks / masks.sum(0)
        return maps.view(len(differences), *self.image_shape)


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
