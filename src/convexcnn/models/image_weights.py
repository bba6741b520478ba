"""Weights of images in the loss, from `sample_weight` and `class_weight`, and who can use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_sample_weight

from convexcnn.errors import DataError, SettingError
from convexcnn.models.program_settings import ProgramSettings, solver_name
from convexcnn.solvers.registry import RIDGE_SOLVERS

ClassWeight = Mapping[Any, float] | str | None


def image_weights(
    labels: NDArray[Any], sample_weight: ArrayLike | None, class_weight: ClassWeight
) -> NDArray[np.float64] | None:
    """Return the weight of every image, or None where all weigh one.

    Args:
        labels: (n,) of any kind.
        sample_weight: (n,), none negative and not all zero; None for ones.
        class_weight: a factor per class, ``balanced`` (n / (k n_c) for class c of n_c images, its
            images counted by their sample weights), or None.

    Raises:
        DataError: weights that are none, or whose sum is infinite.
        SettingError: class weights of another kind, or none for a class that occurs.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights = np.ones(len(labels)) if sample_weight is None else _checked(sample_weight, labels)
    if class_weight is None:
        return weights
    if class_weight == "balanced":
        classes, index = np.unique(labels, return_inverse=True)
        counts = np.bincount(index, weights, minlength=len(classes))
        present = np.count_nonzero(counts)
        shares = np.divide(weights.sum() / present, counts, where=counts > 0, out=0 * counts)
        return _positive(weights * shares[index])
    try:
        factors = compute_sample_weight(class_weight, labels)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"class_weight is {class_weight!r} ({error}); give 'balanced' or a positive number "
            "for each class"
        ) from error
    return _positive(weights * factors)


def restored_label(key: str, labels: Sequence[Any]) -> Any:
    """The label that was a key of ``class_weight``: in JSON every key is a string.

    Args:
        key: of a class that may not occur among the labels.
        labels: that the model was trained on.
    """
    same = [label for label in labels if str(label) == key]
    if same or isinstance(labels[0], str):
        return same[0] if same else key
    number = float(key)
    return int(number) if number.is_integer() else number


def check_can_weigh(settings: ProgramSettings, gates: str) -> None:
    """Refuse programs and solvers that treat all images alike.

    Raises:
        SettingError: it names the setting, and those that weights are for.
    """
    able = (
        "sample_weight and class_weight are for formulation gated, regulariser l2, loss squared "
        f"and solver auto, {', '.join(RIDGE_SOLVERS)}; leave the weights out, or repeat images"
    )
    if gates == "dual":
        raise SettingError(f"gates dual cannot weigh images; choose other gates. {able}")
    if settings.formulation != "gated" or not settings.kind.is_ridge:
        raise SettingError(f"{settings.kind} cannot weigh images: {able}")
    if settings.descends:
        raise SettingError(f"solver sgd cannot weigh images: {able}")
    name = solver_name(settings.solver)
    if name not in ("auto", *RIDGE_SOLVERS):
        raise SettingError(f"solver {name} cannot weigh images: {able}")


def _checked(sample_weight: ArrayLike, labels: NDArray[Any]) -> NDArray[np.float64]:
    try:
        weights = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"sample_weight holds no numbers ({error}); give one per image") from error
    if weights.ndim == 0:
        weights = np.full(len(labels), float(weights))
    if weights.shape != labels.shape:
        raise DataError(
            f"sample_weight.shape is {weights.shape}, expected {labels.shape}; give one per image"
        )
    return _positive(weights)


def _positive(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total) or (weights < 0).any():
        raise DataError("weights of images are negative, infinite or NaN; give numbers from 0 up")
    if not weights.any():
        raise DataError("all sample weights are zero; give some images a positive weight")
    return weights
