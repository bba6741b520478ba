"""The ways to explain one score of a classifier as a map on its image, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convexcnn.explain.affine import gradient_times_input
from convexcnn.explain.contributions import exact_contributions, spread_evenly
from convexcnn.explain.gradcam import grad_cam, on_pixels
from convexcnn.explain.occlusion import occlusion_map
from convexcnn.models.base import BlockClassifier

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


def _occlusion(model: BlockClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    window, stride = occlusion_window(*model.image_shape_[1:])
    maps = occlusion_map(model, images, targets, window=window, stride=stride)
    channel: Floats = maps[:, 0]  # windows cover all channels alike
    return channel


def _grad_cam(model: BlockClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    _, height, width = model.image_shape_
    return on_pixels(grad_cam(model, images, targets), (height, width))


def _contributions(model: BlockClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    maps = exact_contributions(model, images).of_class(targets)
    return spread_evenly(maps, model.geometry())


def _gradient(model: BlockClassifier, images: ArrayLike, targets: NDArray[np.int64]) -> Floats:
    summed: Floats = gradient_times_input(model, images, targets).pixels.sum(1)
    return summed


METHODS: dict[str, Explainer] = {
    "contributions": _contributions,
    "occlusion": _occlusion,
    "gradcam": _grad_cam,
    "gradient": _gradient,
}
"""Maps of a fitted two-layer classifier: contributions spread evenly over patches, how much a score
falls under a window, Grad-CAM enlarged, and gradient times input summed over channels."""
