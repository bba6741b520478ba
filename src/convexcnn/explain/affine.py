"""Gradient times input: the affine piece of the network on which an image lies, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.errors import DataError, SettingError
from convexcnn.explain.block import (
    PatchBlock,
    block_inputs,
    block_of,
    blocks_with_targets,
    has_block,
)
from convexcnn.explain.scorer import (
    Target,
    as_module,
    as_scorer,
    as_tensor,
    evaluating,
    picked,
    resolve_target,
)
from convexcnn.models.base import ImageClassifier
from convexcnn.patches.float32 import fast_float32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class AffinePiece:
    """Scores of n images, each for one class, as what pixels add to a constant.

    score = pixels summed over all pixels + constant

    Args:
        pixels: (n, channels, height, width), gradient times (image - baseline).
        constant: (n,), the affine piece at the baseline.
        scores: (n,).
    """

    pixels: Floats
    constant: Floats
    scores: Floats


def gradient_times_input(
    model: ImageClassifier | nn.Module,
    images: ArrayLike | Tensor,
    target: Target = None,
    *,
    baseline: float | ArrayLike | None = None,
    batch_size: int = 64,
) -> AffinePiece:
    """Split a score into pixels, along the affine piece on which the image lies.

    F_c(x) = G . (x - x0) + constant,   G = d F_c / d x with all gates held as they are at x

    As long as no gate switches a network of gates or ReLUs is affine in its pixels, so that this
    is exact, and the constant is what that affine function gives at the baseline x0. It is *not*
    F_c(x0): on the way there gates switch. What a pixel gets depends on the baseline, and says
    what the score would lose if only this pixel moved to x0 *and no gate switched*; moving a whole
    region switches many. For a module that is not piecewise affine (softmax, sigmoid) the sum
    holds by definition of the constant, and the constant means nothing.

    Args:
        model: a fitted classifier, or any differentiable torch module that maps images to scores.
        images: n images, in the pixel units of the model.
        target: class (column of the scores) for all images, (n,) one for each, or None for the
            class with the highest score.
        baseline: x0, a number or an array that broadcasts to the images; None is 0, and for a
            fitted classifier the mean colour of its training images.
        batch_size: images per call of a module.

    Returns:
        What every pixel adds, the constant and the score.

    Raises:
        DataError: images or a baseline that do not fit.
        SettingError: a class that is not there.
    """
    pixels = as_tensor(images, model)
    start = starting_colour(model, baseline, pixels)
    score = as_scorer(model, batch_size)(pixels)
    targets = resolve_target(target, lambda: score, len(pixels))
    scores = picked(score, targets)
    if has_block(model):
        gradient = _of_classifier(model, pixels, targets)
    else:
        gradient = _of_module(as_module(model), pixels, targets, batch_size)
    parts = gradient.cpu() * (pixels - start).cpu()
    constant = scores.cpu().double() - parts.double().sum((1, 2, 3))
    return AffinePiece(
        parts.float().numpy(), constant.float().numpy(), scores.cpu().float().numpy()
    )


def starting_colour(model: object, colour: float | ArrayLike | None, pixels: Tensor) -> Tensor:
    """Return a colour to compare with, of the shape of the images.

    Args:
        model: for a fitted classifier None is the mean colour of its training images, else 0.
        colour: a number, an array that broadcasts to the images, or None.
        pixels: the images, (n, channels, height, width).

    Raises:
        DataError: an array of another shape.
        SettingError: no numbers, or some that are not finite.
    """
    if colour is None and isinstance(model, ImageClassifier):
        value = torch.tensor(model.scaler_.mean, dtype=pixels.dtype)[:, None, None]
    else:
        value = _colour(0.0 if colour is None else colour).to(pixels.dtype)
    try:
        return value.to(pixels.device).expand_as(pixels)
    except RuntimeError as error:
        raise DataError(
            f"a fill or baseline of shape {tuple(value.shape)} does not fit; give a number, or an "
            f"array that broadcasts to {tuple(pixels.shape)}"
        ) from error


def _colour(colour: float | ArrayLike) -> Tensor:
    try:
        value = torch.as_tensor(colour, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"a fill or baseline is {colour!r}; give a number, or some") from error
    if not bool(torch.isfinite(value).all()):
        raise SettingError("a fill or baseline is NaN or infinite; give finite numbers")
    return value


def block_gradient(block: PatchBlock, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient of one block's scores by its scaled images, gates held fixed.

    dF_c/dx_l = (1/q) sum_i 1[x_l . a_i >= 0] v_{c,cell,i}, carried back through coordinates and
    patches.

    Args:
        block: patches, gates and head.
        images: (n, channels, height, width), scaled.
        targets: (n,) classes c.

    Returns:
        Of the shape of the images.
    """
    geometry = block.geometry
    _, on = block.cells_of(images)
    sizes = geometry.cell_sizes.to(on)
    weights = block.weights[targets] / sizes[:, None, None]
    by_cell = torch.matmul(on, weights)  # (n, cells, q, d)
    by_patch = block.to_grid(by_cell.permute(0, 3, 1, 2)).flatten(2)
    rank = block.transform.matrix.shape[1]
    raw = block.transform.matrix @ by_patch[:, :rank]
    return torch.nn.functional.fold(
        raw,
        geometry.image_shape[1:],
        geometry.filter_size,
        padding=geometry.padding,
        stride=geometry.stride,
    )


def _of_classifier(model: ImageClassifier, pixels: Tensor, targets: Tensor) -> Tensor:
    block = block_of(model)
    scale = torch.tensor(model.scaler_.scale)[:, None, None]
    stream = blocks_with_targets(block_inputs(model, pixels), targets, block.images_at_once)
    parts = [torch.zeros(0, *model.image_shape_)]
    with torch.no_grad(), fast_float32():
        for images, classes in stream:
            gradient = block_gradient(block, images, classes).cpu()
            if model.scaler_.centre:
                gradient -= gradient.mean((1, 2, 3), keepdim=True)
            parts.append(gradient / scale)
    return torch.cat(parts)


def _of_module(module: nn.Module, pixels: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    parts = [torch.zeros_like(pixels[:0])]
    with evaluating(module), torch.enable_grad():
        for part, classes in blocks_with_targets(iter([pixels]), targets, batch_size):
            leaf = part.clone().requires_grad_()
            chosen = picked(module(leaf), classes).sum()
            parts.append(torch.autograd.grad(chosen, leaf)[0])
    return torch.cat(parts)
