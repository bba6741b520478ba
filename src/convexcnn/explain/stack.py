"""A stack as the head of one of its blocks, and what deep patches say as pixels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from convexcnn.errors import SettingError
from convexcnn.explain.pixels import spread_evenly
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.base import ImageClassifier
from convexcnn.models.layerwise import LayerwiseConvexCNN

Floats = NDArray[np.float32]


def is_stack(model: object) -> TypeGuard[LayerwiseConvexCNN]:
    """Whether a model is a stack of blocks."""
    return isinstance(model, LayerwiseConvexCNN)


def averages_mirror_images(model: object) -> bool:
    """Whether the scores of an image are averaged with those of its mirror image."""
    return is_stack(model) and AUGMENTATIONS[model.as_trained().augment].mirror


def block_head(stack: LayerwiseConvexCNN, block: int) -> LayerwiseConvexCNN:
    """Return a stack that ends with a block and predicts by the head of that block alone.

    Whatever explains a stack explains one head so: its scores are those of
    ``stack.block_scores(images)[block - 1]``. Probabilities keep the temperature of the whole
    stack. Nothing is copied.

    Args:
        stack: fitted.
        block: which block, counted from 1.

    Raises:
        SettingError: a block that is not there.
    """
    stack.check_trained()
    if not 1 <= block <= len(stack.blocks_):
        raise SettingError(f"block is {block}; the stack has blocks 1 to {len(stack.blocks_)}")
    head = copy.copy(stack)
    head.blocks_ = stack.blocks_[:block]
    head.head_weights_ = torch.eye(block, dtype=torch.float64)[-1]
    return head


def weighted_heads(model: ImageClassifier) -> Iterator[tuple[float, ImageClassifier]]:
    """Yield every head that the prediction of a model uses, and its weight.

    The score of a stack is the sum of its heads' by weight, and so is every explanation that adds
    up to the score. A two-layer classifier is its own head.

    Args:
        model: fitted.

    Yields:
        Weights of sum one, and for each a model that predicts by that head alone.
    """
    model.check_trained()
    if not is_stack(model):
        yield 1.0, model
        return
    for number, weight in enumerate(model.head_weights_.tolist(), 1):
        if weight:
            yield weight, block_head(model, number)


def only_head(stack: LayerwiseConvexCNN) -> int:
    """Return the number of the one block whose head a stack predicts by.

    Raises:
        SettingError: several heads predict together.
    """
    used = [number for number, weight in enumerate(stack.head_weights_.tolist(), 1) if weight]
    if len(used) != 1:
        raise SettingError(
            f"this stack predicts by the heads of blocks {', '.join(map(str, used))} together; "
            f"choose one with block_head(model, block)"
        )
    return used[0]


def spread_through(stack: LayerwiseConvexCNN, block: int, maps: ArrayLike) -> Floats:
    """Pull contributions of a block's patches back to pixels, evenly at every step.

    Every patch shares its contribution evenly among the map pixels it holds, every map pixel
    among the patches of the block before that it is the response or the average of, and so on
    down to the image. Sums stay exact, but for patches that lie wholly in the padding. What is
    left of the resolution is that of the receptive field: the deeper the block, the smoother the
    map. It says where the head looks, and nothing about which pixels there matter.

    Args:
        stack: fitted.
        block: which block, counted from 1.
        maps: (n, rows, columns) contributions of its patches.

    Returns:
        (n, height, width).
    """
    values = np.asarray(maps, np.float32)
    for number in range(block, 0, -1):
        geometry = stack.blocks_[number - 1].geometry
        if number < block:
            values = _to_patches(values, geometry.grid)
        values = spread_evenly(values, geometry)
    return values


def _to_patches(values: Floats, grid: tuple[int, int]) -> Floats:
    """Share map pixels (n, height, width) among the patches of the grid that they are made of."""
    if values.shape[1:] == grid:
        return values
    shared = np.zeros((len(values), *grid), np.float32)
    height, width = values.shape[1:]
    shared[:, : 2 * height, : 2 * width] = values.repeat(2, axis=1).repeat(2, axis=2) / 4
    return shared
