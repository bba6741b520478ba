"""The ways to explain one score of a classifier as a map on its image, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convexcnn.explain.affine import gradient_times_input
from convexcnn.explain.block import block_of
from convexcnn.explain.contributions import exact_contributions
from convexcnn.explain.gradcam import grad_cam
from convexcnn.explain.occlusion import occlusion_map
from convexcnn.explain.pixels import on_pixels, spread_evenly
from convexcnn.explain.stack import is_stack, spread_through, weighted_heads
from convexcnn.models.base import ImageClassifier

Floats = NDArray[np.float32]
Explainer: TypeAlias = Callable[[Any, ArrayLike, NDArray[np.int64]], Floats]
"""A model, n images and (n,) classes to maps (n, height, width)."""


def occlusion_window(height: int, width: int) -> tuple[int, int]:
    """A window of a quarter of the image's shorter side, and steps of a quarter of that.

    Returns:
        Side and stride in pixels: 8 and 2 for images of 32x32.
    """
    window = max(1, min(height, width) // 4)
    return window, max(1, window // 4)


def _occlusion(model: ImageClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    window, stride = occlusion_window(*model.image_shape_[1:])
    maps = occlusion_map(model, images, targets, window=window, stride=stride)
    channel: Floats = maps[:, 0]  # windows cover all channels alike
    return channel


def _grad_cam(model: ImageClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    _, height, width = model.image_shape_
    return _by_head(model, lambda head: on_pixels(grad_cam(head, images, targets), (height, width)))


def _contributions(model: ImageClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    def of_head(head: ImageClassifier) -> Floats:
        maps = exact_contributions(head, images).of_class(targets)
        if is_stack(head):
            return spread_through(head, len(head.blocks_), maps)
        return spread_evenly(maps, block_of(head).geometry)

    return _by_head(model, of_head)


def _gradient(model: ImageClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    summed: Floats = gradient_times_input(model, images, targets).pixels.sum(1)
    return summed


def _by_head(model: ImageClassifier, of_head: Callable[[ImageClassifier], Floats]) -> Floats:
    """The maps of every head that the prediction uses, summed by its weight."""
    parts = [np.float32(weight) * of_head(head) for weight, head in weighted_heads(model)]
    total: Floats = np.sum(parts, axis=0)
    return total


METHODS: dict[str, Explainer] = {
    "contributions": _contributions,
    "occlusion": _occlusion,
    "gradcam": _grad_cam,
    "gradient": _gradient,
}
"""Maps of a fitted classifier: contributions spread evenly over patches, how much a score falls
under a window, Grad-CAM enlarged, and gradient times input summed over channels. Contributions and
Grad-CAM of a stack are those of the heads that it predicts by, summed by weight."""
