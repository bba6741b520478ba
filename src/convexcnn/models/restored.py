"""Checks of what a model file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError for a tensor of another shape than expected, KeyError for a missing one."""
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {shape}")


def positive(numbers: Mapping[str, Any], name: str) -> float:
    """Return a number of that name as ``finite`` does; ValueError also if it is not positive."""
    value = finite(numbers, name)
    if value <= 0:
        raise ValueError(f"{name} is {value}")
    return value


def finite(numbers: Mapping[str, Any], name: str) -> float:
    """Return a number of that name; ValueError if it is not finite, KeyError if it is missing."""
    value = float(numbers[name])
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value
