"""Anything that scores images as a function of tensors, and which class to explain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.data.arguments import check_whole
from convexcnn.data.preprocess import as_images, channels_first
from convexcnn.errors import DataError, SettingError
from convexcnn.models.base import ImageClassifier

Scorer: TypeAlias = Callable[[Tensor], Tensor]
"""Images (n, channels, height, width) to scores (n, k)."""

Explainable: TypeAlias = ImageClassifier | nn.Module | Scorer
"""A fitted classifier, a torch module, or any function of images."""

Target: TypeAlias = int | Sequence[int] | NDArray[np.integer] | Tensor | None
"""One class (a column of the scores) for all images, one for each, or the highest score's."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


def as_scorer(model: Explainable, batch_size: int = 32) -> Scorer:
    """Return a function from images in pixels to scores, without gradients.

    Args:
        model: a fitted classifier is asked for ``scores``; a module is called in its evaluation
            mode, and left in the mode it was in; any other callable is called as it is.
        batch_size: images per call of a module or callable.

    Raises:
        SettingError: a model that cannot be called, or no image per call.
    """
    check_whole("batch_size", batch_size, 1)
    if isinstance(model, ImageClassifier):
        return lambda images: torch.from_numpy(model.scores(as_read_by(model, images)))
    if isinstance(model, nn.Module):
        return lambda images: _call_module(model, images, batch_size)
    if not callable(model):
        raise SettingError(
            f"model is a {type(model).__name__}; give a fitted classifier, a torch module, or a "
            f"function from images (n, channels, height, width) to scores (n, k)"
        )
    return lambda images: _call(model, images, batch_size)


def as_module(model: ImageClassifier | nn.Module) -> nn.Module:
    """Return a module to take gradients of: a classifier's ``to_torch()``, or the module itself.

    Raises:
        SettingError: a model of another kind.
    """
    if isinstance(model, ImageClassifier):
        return model.to_torch()
    if not isinstance(model, nn.Module):
        raise SettingError(
            f"model is a {type(model).__name__}; give a fitted classifier, or a torch module, to "
            f"take gradients of"
        )
    return model


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it a module is in its evaluation mode; then every part is in its own mode again."""
    whole = module.training
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        module.train(whole)  # parts may do more there than set their mode
        for part, training in modes:
            part.training = training


def as_tensor(images: ArrayLike | Tensor, model: Explainable | None = None) -> Tensor:
    """Return images as a float tensor (n, channels, height, width).

    Args:
        images: in any layout that ``fit`` takes. Float tensors (n, channels, height, width) keep
            their type (but for half precision), and without a fitted classifier their device.
        model: a fitted classifier, which says how flattened images are read, and that float
            tensors may have their channels last. Without one such tensors stay as they are.

    Raises:
        DataError: images in no such layout, or an array with NaN or infinite pixels.
    """
    fitted = model.as_trained() if isinstance(model, ImageClassifier) else None
    plain = isinstance(images, Tensor) and images.layout == torch.strided and not images.is_meta
    if isinstance(images, Tensor) and plain and images.is_floating_point() and images.ndim == 4:
        pixels = images.detach()
        if fitted is None:
            return pixels
        pixels = pixels.cpu()  # where its plain network is
        if not _fits(pixels.shape, fitted) and _has_channels_last(pixels.shape):
            pixels = pixels.movedim(3, 1)
        return pixels.float() if pixels.element_size() < 4 else pixels
    size, shape = np.shape(images), None
    if fitted is not None and len(size) == 2:
        shape = fitted.image_shape or fitted.image_shape_
    array = as_images(images, shape)
    if fitted is not None and _fits(size, fitted) and _has_channels_last(size):
        array = np.moveaxis(array, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def as_read_by(model: ImageClassifier, images: ArrayLike) -> ArrayLike:
    """Return images as the methods of a fitted classifier take them.

    What was trained on tables (``image_shape=(-1, height, width)``) takes nothing but tables:
    tensors (n, channels, height, width) of ``as_tensor`` are flattened for it.
    """
    shape = model.as_trained().image_shape
    of_tables = shape is not None and shape[0] == -1
    if of_tables and isinstance(images, Tensor) and images.ndim == 4:
        return images.flatten(1)
    return images


def _fits(size: Sequence[int], fitted: ImageClassifier) -> bool:
    """Whether images of this size have the shape that was trained on, channels first."""
    return tuple(size[1:]) == tuple(fitted.image_shape_)


def _has_channels_last(size: Sequence[int]) -> bool:
    """Whether ``fit`` takes four axes of these sizes as (n, height, width, channels)."""
    return channels_first(np.broadcast_to(np.uint8(0), size)).shape != tuple(size)


def resolve_target(target: Target, scores: Callable[[], Tensor], n: int) -> Tensor:
    """Return one class per image, (n,) int64.

    Args:
        target: a column of the scores, one for every image, or None for the highest score's.
        scores: gives the scores (n, k) when asked.
        n: number of images.

    Raises:
        DataError: another number of classes than images.
        SettingError: targets that are no whole numbers.
    """
    if target is None:
        return scores().argmax(1)
    numbers = np.asarray(target.detach().cpu() if isinstance(target, Tensor) else target)
    if numbers.dtype.kind not in "iu":
        raise SettingError(
            f"target is {target!r}; give the number of a class, or one for each image"
        )
    classes = torch.from_numpy(numbers.astype(np.int64))
    if classes.ndim == 0:
        return classes.expand(n)
    if classes.shape != (n,):
        raise DataError(
            f"target has shape {tuple(classes.shape)}; give one class, or one for each of the "
            f"{n} images"
        )
    return classes


def picked(scores: Tensor, targets: Tensor) -> Tensor:
    """Return every image's score of its own target class, (n,).

    Raises:
        SettingError: a target that is no column of the scores.
    """
    k = scores.shape[1]
    outside = (targets < 0) | (targets >= k)
    if bool(outside.any()):
        raise SettingError(
            f"target {int(targets[outside][0])} is no class of this model; choose one of 0 to "
            f"{k - 1}"
        )
    return scores.gather(1, targets.to(scores.device)[:, None])[:, 0]


def _call_module(module: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with evaluating(module), torch.no_grad():
        return _call(module, images, batch_size)


def _call(function: Scorer, images: Tensor, batch_size: int) -> Tensor:
    parts = torch.split(images, batch_size)
    return torch.cat([_checked(torch.as_tensor(function(part)), part) for part in parts])


def _checked(scores: Tensor, images: Tensor) -> Tensor:
    if scores.ndim != 2 or len(scores) != len(images):
        raise DataError(
            f"model gives scores of shape {tuple(scores.shape)} for {len(images)} images; they "
            f"must be (n, k)"
        )
    return scores.detach()
