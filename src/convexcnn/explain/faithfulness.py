"""Whether a map tells the truth about a model: deletion, insertion, and a floor of random maps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from convexcnn.data.arguments import check_whole
from convexcnn.errors import DataError
from convexcnn.explain.affine import starting_colour
from convexcnn.explain.methods import METHODS, Explainer
from convexcnn.explain.randomisation import randomisation_test
from convexcnn.explain.scorer import (
    Explainable,
    Progress,
    Scorer,
    Target,
    as_read_by,
    as_scorer,
    as_tensor,
    picked,
    resolve_target,
)
from convexcnn.models.base import ImageClassifier

Floats = NDArray[np.float32]
RANDOM = "random"
"""The row of the table whose maps know nothing: what a method must beat."""


@dataclass(frozen=True)
class Curve:
    """A model's values while pixels are changed, the most important ones first.

    Args:
        shares: (steps + 1,), the share of pixels changed.
        values: (n, steps + 1), the target's value.
    """

    shares: Floats
    values: Floats

    @property
    def areas(self) -> Floats:
        """(n,): area under every curve, by trapezoids; a constant value of 1 has area 1."""
        area: Floats = np.asarray(np.trapezoid(self.values, self.shares, axis=1), np.float32)
        return area


@dataclass(frozen=True)
class Faithfulness:
    """One row of the table: means over images, with standard errors of the areas.

    Args:
        method: its name.
        deletion: area under the deletion curve; low if the map finds what the model needs.
        deletion_error: its standard error.
        insertion: area under the insertion curve; high if what the map finds suffices.
        insertion_error: its standard error.
        randomised: rank correlation of maps with those of a model whose layers were shuffled, by
            the last layer shuffled; near 1 means that the map does not depend on what was
            learned. Empty for random maps.
        seconds: time for the maps.
    """

    method: str
    deletion: float
    deletion_error: float
    insertion: float
    insertion_error: float
    randomised: dict[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        return asdict(self)


def deletion_curve(
    model: Explainable,
    images: ArrayLike | Tensor,
    maps: ArrayLike,
    target: Target = None,
    *,
    steps: int = 16,
    fill: float | ArrayLike | None = None,
    batch_size: int = 136,
) -> Curve:
    """Return the target's value while pixels are covered, the map's highest first.

    Args:
        model: a fitted classifier, whose probabilities are taken, a torch module, or a function
            from images (n, channels, height, width) to values (n, k).
        images: n images, in the pixel units of the model.
        maps: (n, height, width), or (n, channels, height, width), which is summed over channels.
        target: class (column of the values) for all images, (n,) one for each, or None for the
            class with the highest value.
        steps: an equal share of the pixels is covered in each.
        fill: what a covered pixel shows; None is 0, and for a fitted classifier the mean colour of
            its training images.
        batch_size: images per call of ``model``.

    Raises:
        DataError: maps or images that do not fit.
        SettingError: no steps, or a class that is not there.

    Source: Petsiuk, Das & Saenko 2018, *RISE*.
    """
    return _curve(model, images, maps, target, steps, fill, batch_size, insert=False)


def insertion_curve(
    model: Explainable,
    images: ArrayLike | Tensor,
    maps: ArrayLike,
    target: Target = None,
    *,
    steps: int = 16,
    fill: float | ArrayLike | None = None,
    batch_size: int = 136,
) -> Curve:
    """Return the target's value while covered pixels are shown again, the map's highest first.

    The class of the highest value, where ``target`` is None, is that of the whole image. Arguments
    and errors are those of ``deletion_curve``.
    """
    return _curve(model, images, maps, target, steps, fill, batch_size, insert=True)


def faithfulness_table(
    model: ImageClassifier,
    images: ArrayLike,
    target: Target = None,
    *,
    methods: Mapping[str, Explainer] = METHODS,
    steps: int = 16,
    random_state: int = 0,
    progress: Progress | None = None,
) -> list[Faithfulness]:
    """Measure every method on the same images, and random maps beside them.

    Args:
        model: fitted.
        images: n images, in any layout that ``fit`` takes; a few hundred give stable means.
        target: class for all images, (n,) one for each, or None for the predicted class.
        methods: by name, functions from model, images and classes to maps.
        steps: of the curves.
        random_state: seed of random maps and of shuffled weights.
        progress: called with the number of methods done and of all.

    Returns:
        One row per method; the last one is ``random``.

    Raises:
        DataError: fewer than two images, or images that do not fit the model.
    """
    pixels = as_tensor(images, model)
    if len(pixels) < 2:
        raise DataError(f"{len(pixels)} images are too few for a table; give at least two")
    targets = resolve_target(target, lambda: _values(model)(pixels), len(pixels)).numpy()
    rng = np.random.default_rng(random_state)
    rows = []
    everything: dict[str, Explainer | None] = {**methods, RANDOM: None}
    for done, (name, explain) in enumerate(everything.items(), start=1):
        start = time.perf_counter()
        if explain is None:
            maps = rng.random((len(pixels), *pixels.shape[2:]), np.float32)
        else:
            maps = explain(model, pixels, targets)
        seconds = time.perf_counter() - start
        shuffled = {} if explain is None else _randomised(model, explain, pixels, targets, rng)
        deleted = deletion_curve(model, pixels, maps, targets, steps=steps).areas
        inserted = insertion_curve(model, pixels, maps, targets, steps=steps).areas
        measures = (*_mean_and_error(deleted), *_mean_and_error(inserted))
        rows.append(Faithfulness(name, *measures, randomised=shuffled, seconds=seconds))
        if progress is not None:
            progress(done, len(everything))
    return rows


def _randomised(
    model: ImageClassifier,
    explain: Explainer,
    pixels: Tensor,
    targets: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, float]:
    seed = int(rng.integers(2**31))
    return randomisation_test(model, lambda other: explain(other, pixels, targets), seed)


def _mean_and_error(areas: Floats) -> tuple[float, float]:
    return float(areas.mean()), float(areas.std(ddof=1) / np.sqrt(len(areas)))


def _values(model: Explainable, batch_size: int = 32) -> Scorer:
    """Probabilities of a fitted classifier, and whatever anything else gives."""
    if isinstance(model, ImageClassifier):
        return lambda images: torch.from_numpy(model.predict_proba(as_read_by(model, images)))
    return as_scorer(model, batch_size)


def _curve(
    model: Explainable,
    images: ArrayLike | Tensor,
    maps: ArrayLike,
    target: Target,
    steps: int,
    fill: float | ArrayLike | None,
    batch_size: int,
    *,
    insert: bool,
) -> Curve:
    check_whole("steps", steps, 1)
    check_whole("batch_size", batch_size, 1)
    pixels, value = as_tensor(images, model), _values(model, batch_size)
    filling = starting_colour(model, fill, pixels)
    targets = resolve_target(target, lambda: value(pixels), len(pixels))
    ranks = _ranks(maps, pixels).to(pixels.device)
    size = ranks[0].numel() if len(ranks) else 1
    shares = torch.arange(steps + 1) / steps
    counts = (shares * size).round().to(ranks.device)
    at_once = max(1, batch_size // (steps + 1))
    values = [torch.zeros(0, steps + 1)]
    for start in range(0, len(pixels), at_once):
        rows = slice(start, start + at_once)
        changed = ranks[rows, None] < counts[:, None, None]
        shown = (changed if insert else ~changed)[:, :, None]
        mixed = torch.where(shown, pixels[rows, None], filling[rows, None]).flatten(0, 1)
        repeated = targets[rows].repeat_interleave(steps + 1)
        values.append(picked(value(mixed), repeated).view(-1, steps + 1).float().cpu())
    return Curve(shares.numpy(), torch.cat(values).numpy())


def _ranks(maps: ArrayLike, pixels: Tensor) -> Tensor:
    """(n, height, width): 0 for the pixel with the highest value of every map."""
    importance = torch.as_tensor(np.asarray(maps, np.float32))
    if importance.ndim == 4:
        importance = importance.sum(1)
    expected = (len(pixels), *pixels.shape[2:])
    if tuple(importance.shape) != expected:
        raise DataError(
            f"maps has shape {tuple(importance.shape)}; give {expected}, one value per pixel"
        )
    order = importance.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(expected)
