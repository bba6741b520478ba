"""The image that a score or a unit likes best, among all images with pixels between bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.data.arguments import check_whole
from convexcnn.errors import DataError, SettingError
from convexcnn.explain.scorer import Progress, as_module, evaluating, picked, resolve_target
from convexcnn.models.base import ImageClassifier

GROWTH, SHRINKAGE = 2.0, 0.25
"""What a step is multiplied by after it helped, and after it did not."""

SMALLEST_STEP = 1e-9
"""A start is at its end when steps this short, relative to the first one, do not help."""


@dataclass(frozen=True)
class Maximum:
    """What ascent found from every start.

    Args:
        images: (starts, channels, height, width), within the bounds.
        values: (starts,), the value reached.
        start_values: (starts,), the value before.
    """

    images: NDArray[np.float32]
    values: NDArray[np.float32]
    start_values: NDArray[np.float32]

    @property
    def best(self) -> NDArray[np.float32]:
        """(channels, height, width): the image with the highest value."""
        image: NDArray[np.float32] = self.images[int(self.values.argmax())]
        return image


def maximise_input(
    model: ImageClassifier | nn.Module | Callable[[Tensor], Tensor],
    target: int | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    lower: float | ArrayLike = 0.0,
    upper: float | ArrayLike = 255.0,
    starts: int | ArrayLike = 4,
    steps: int = 200,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Maximum:
    """Climb to an image with a high value, between pixel bounds, from several starts.

    maximise F(X)   subject to   rho_min <= X <= rho_max, pixel by pixel

    by projected gradient ascent, X <- clip(X + t G, rho_min, rho_max), with a step t of its own
    for every start that doubles after a step that helped and shrinks after one that did not. The
    values are what was reached: F is not concave, so that none is proven to be the maximum. Of an
    affine F (one first-layer unit) it is, see ``box_maximum``.

    Args:
        model: a fitted classifier, a torch module, or any differentiable function from images
            (n, channels, height, width) to values (n,) or scores (n, k). A module is called in its
            evaluation mode, and left in the mode it was in.
        target: column of the scores to maximise; left out for a function with values (n,).
        image_shape: (channels, height, width); a fitted classifier knows it.
        lower: rho_min, a number or an array that broadcasts to an image.
        upper: rho_max, in the same forms.
        starts: number of random starts, or images (n, channels, height, width) to start from. The
            first random one is the middle between the bounds.
        steps: at most so many.
        random_state: seed of the random starts.
        progress: called with the steps done and ``steps``.

    Returns:
        Images and values.

    Raises:
        DataError: bounds or starts that do not fit.
        SettingError: no image_shape, no target where it is needed, or bounds that cross.

    Source: Chang & Lee, *Peeking into the Black Box*, eq. (4).
    """
    check_whole("steps", steps, 1)
    value = _value_of(model, target)
    shape = _shape(model, image_shape)
    low, high = _bounds(lower, upper, shape)
    images = _starts(starts, low, high, random_state)
    values, gradient = value(images)
    start_values = values.clone()
    norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
    first = (high - low).norm() / (10 * norm)
    step = first.clone()
    for done in range(steps):
        moved = torch.clamp(images + step[:, None, None, None] * gradient, low, high)
        new_values, new_gradient = value(moved)
        better = new_values > values
        kept = better[:, None, None, None]
        images, gradient = (
            torch.where(kept, moved, images),
            torch.where(kept, new_gradient, gradient),
        )
        values = torch.where(better, new_values, values)
        step = torch.where(better, step * GROWTH, step * SHRINKAGE)
        if progress is not None:
            progress(done + 1, steps)
        if bool((step < SMALLEST_STEP * first).all()):
            break
    return Maximum(images.numpy(), values.numpy(), start_values.numpy())


def box_maximum(
    weights: ArrayLike, bias: float, lower: float | ArrayLike, upper: float | ArrayLike
) -> tuple[NDArray[np.float32], float]:
    """The maximum of one first-layer unit over a box, in closed form.

    max over rho_min <= x <= rho_max of u . x + b:  x = rho_max where u > 0, else rho_min

    Args:
        weights: u, of any shape, such as a filter (channels, height, width).
        bias: b.
        lower: rho_min, a number or an array that broadcasts to u.
        upper: rho_max, in the same forms.

    Returns:
        x, of the shape of u, and the value there.
    """
    u = np.asarray(weights, np.float64)
    x = np.where(u > 0, upper, lower)
    return x.astype(np.float32), float((u * x).sum() + bias)


def _value_of(
    model: ImageClassifier | nn.Module | Callable[[Tensor], Tensor], target: int | None
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from images to their values (n,) and gradients."""
    function = as_module(model) if isinstance(model, (ImageClassifier, nn.Module)) else model

    def mode() -> AbstractContextManager[None]:
        return evaluating(function) if isinstance(function, nn.Module) else nullcontext()

    def value(images: Tensor) -> tuple[Tensor, Tensor]:
        with mode(), torch.enable_grad():
            leaf = images.clone().requires_grad_()
            output = function(leaf)
            if output.ndim == 2 and target is not None:
                scores = output
                output = picked(scores, resolve_target(target, lambda: scores, len(images)))
            if output.shape != (len(images),):
                raise SettingError(
                    f"model gives values of shape {tuple(output.shape)} for {len(images)} images; "
                    f"name the column to maximise with target, or give a function with (n,)"
                )
            (gradient,) = torch.autograd.grad(output.sum(), leaf)
        return output.detach(), gradient

    return value


def _shape(model: object, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    if image_shape is not None:
        return tuple(image_shape)
    if isinstance(model, ImageClassifier):
        return tuple(model.image_shape_)
    raise SettingError("image_shape is not given; say (channels, height, width) of the images")


def _bounds(
    lower: float | ArrayLike, upper: float | ArrayLike, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    try:
        low, high = (
            torch.from_numpy(np.broadcast_to(np.asarray(bound, np.float32), shape).copy())
            for bound in (lower, upper)
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"lower or upper does not broadcast to an image of {shape}") from error
    if not bool((low <= high).all()):
        raise SettingError("lower is above upper, or NaN; exchange them, or give numbers")
    return low, high


def _starts(starts: int | ArrayLike, low: Tensor, high: Tensor, seed: int) -> Tensor:
    """Images to start from, (n, channels, height, width), within the bounds."""
    if np.ndim(starts) == 0:
        count: Any = starts
        check_whole("starts", count, 1)
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(int(count), *low.shape, generator=generator)
        share[0] = 0.5
        return low + share * (high - low)
    images = torch.from_numpy(np.array(starts, np.float32))
    if images.shape[1:] != low.shape:
        raise DataError(f"starts has shape {tuple(images.shape)}; give (n, {tuple(low.shape)})")
    return torch.clamp(images, low, high)
