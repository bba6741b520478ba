"""What every block likes best, as `explanations.safetensors` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convexcnn.errors import RunError

Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class Maximisers:
    """What gradient ascent on the pixels found for one block.

    Args:
        class_images: (k, channels, height, width) uint8.
        class_values: (k, starts), the score reached from every start.
        filter_images: (k, m, channels, height, width) uint8; m = 0 in the first block.
        filter_values: (k, m, starts), the response reached; NaN where a gate stayed closed.
        filter_gates: (k, m).
        filter_boxes: (k, m, 4), top, left, bottom and right of what a filter sees.
        seconds: (1,), what it took.
    """

    class_images: NDArray[np.uint8]
    class_values: Tensor
    filter_images: NDArray[np.uint8]
    filter_values: Tensor
    filter_gates: NDArray[np.int64]
    filter_boxes: NDArray[np.int64]
    seconds: Tensor


def read_maximisers(
    path: Path, tensors: Mapping[str, NDArray[np.generic]], classes: int
) -> tuple[Maximisers, ...]:
    """Take the entries `block1.class_images` and so on, block by block.

    Args:
        path: where they are from.
        tensors: by name, with others perhaps.
        classes: that the model was trained on.

    Raises:
        RunError: entries that are missing or do not fit together.
    """
    blocks: list[Maximisers] = []
    while any(name.startswith(f"block{len(blocks) + 1}.") for name in tensors):
        number = len(blocks) + 1
        try:
            found = Maximisers(
                **{  # type: ignore[arg-type]
                    field.name: tensors[f"block{number}.{field.name}"]
                    for field in fields(Maximisers)
                }
            )
        except KeyError as error:
            raise _odd(path, f"has no {error}") from error
        if not _fits(found, classes):
            raise _odd(path, f"holds tensors of block {number} that do not fit together")
        blocks.append(found)
    return tuple(blocks)


def _fits(found: Maximisers, classes: int) -> bool:
    images, values, shape = found.class_images, found.class_values, found.filter_images.shape
    return (
        images.ndim == 4
        and 0 not in images.shape
        and len(images) <= classes
        and images.dtype == found.filter_images.dtype == np.uint8
        and values.ndim == 2
        and len(values) == len(images)
        and values.shape[1] > 0
        and len(shape) == 5
        and (shape[0], *shape[2:]) == images.shape
        and found.filter_values.shape == (*shape[:2], values.shape[1])
        and found.filter_gates.shape == shape[:2]
        and found.filter_boxes.shape == (*shape[:2], 4)
        and found.filter_gates.dtype.kind in "iu"
        and found.filter_boxes.dtype.kind in "iu"
        and found.seconds.shape == (1,)
        and _inside(found.filter_boxes, *images.shape[2:])
    )


def _inside(boxes: NDArray[np.int64], height: int, width: int) -> bool:
    top, left, bottom, right = np.moveaxis(boxes, -1, 0)
    rows = (top >= 0) & (top < bottom) & (bottom <= height)
    return bool((rows & (left >= 0) & (left < right) & (right <= width)).all())


def _odd(path: Path, problem: str) -> RunError:
    return RunError(f"{path} {problem}; delete it to report without explanations")
