"""Occlusion maps: how much a score falls where a window covers the image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from convexcnn.explain.affine import starting_colour
from convexcnn.explain.block import block_of, has_block
from convexcnn.explain.local_occlusion import LocalOcclusion
from convexcnn.explain.scorer import (
    Explainable,
    Progress,
    Scorer,
    Target,
    as_scorer,
    as_tensor,
    picked,
    resolve_target,
)
from convexcnn.explain.windows import Box, Windows


def occlusion_map(
    model: Explainable,
    images: ArrayLike | Tensor,
    target: Target = None,
    *,
    window: Box | None = None,
    stride: Box | None = None,
    fill: float | ArrayLike | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Return how much the target's score falls, on average, when a pixel is covered.

    map[p] = average over the windows w that cover p of  F_c(x) - F_c(x with w filled)

    Windows stand at every multiple of the stride; the last ones are cut at the image's edge. This
    is what captum's ``Occlusion`` computes. A window with all channels gives one value to all
    channels of a pixel.

    Of a fitted classifier with one block, only the patches that a window touches are computed
    again; the others change at most by the image's mean, which is followed exactly.

    Args:
        model: a fitted classifier, a torch module, or a function from images (n, channels,
            height, width) to scores (n, k).
        images: n images, in the pixel units of the model.
        target: class (column of the scores) for all images, (n,) one for each, or None for the
            class with the highest score.
        window: side in pixels, (height, width), or (channels, height, width). None is a quarter
            of the image's shorter side, at least 1 and at most 8.
        stride: pixels from one window to the next, in the same forms. None is 2, and 1 along a
            side of one pixel.
        fill: what a window is filled with: a number, or an array that broadcasts to the images.
            None is 0, and for a fitted classifier the mean colour of its training images.
        batch_size: images per call of ``model``.
        progress: called with the number of images done and of all.

    Returns:
        (n, channels, height, width).

    Raises:
        DataError: images, scores or a fill of shapes that do not fit.
        SettingError: a window, a stride or a class that does not fit.

    Source: Zeiler & Fergus 2014, *Visualizing and Understanding Convolutional Networks*.
    """
    pixels = as_tensor(images, model)
    windows = Windows.of(pixels.shape[1:], window, stride)
    score = as_scorer(model, batch_size)
    before = score(pixels)
    targets = resolve_target(target, lambda: before, len(pixels)).to(before.device)
    filling = starting_colour(model, fill, pixels)
    under = _under_windows(model, score, windows, batch_size)
    differences = before.new_empty(len(pixels), len(windows))
    reference = picked(before, targets)
    for i in range(len(pixels)):
        differences[i] = reference[i] - under(pixels[i], filling[i], int(targets[i]))
        if progress is not None:
            progress(i + 1, len(pixels))
    maps: NDArray[np.float32] = windows.averaged(differences.cpu()).float().numpy()
    return maps


def _under_windows(
    model: Explainable, score: Scorer, windows: Windows, batch_size: int
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function from an image, its filling and a class to the scores under every window."""
    if has_block(model):
        return LocalOcclusion(block_of(model), model.scaler_, windows).scores

    def scores(image: Tensor, filling: Tensor, target: int) -> Tensor:
        found = []
        for start in range(0, len(windows), batch_size):
            masks = windows.masks(slice(start, start + batch_size)).to(image.device)
            found.append(score(torch.where(masks, filling, image))[:, target])
        return torch.cat(found)

    return scores
