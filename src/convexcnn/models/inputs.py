"""Images, labels and weights as an estimator is given them, checked as scikit-learn does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, column_or_1d

from convexcnn.data.preprocess import as_images
from convexcnn.data.rows import ImageRows, RowView, take_rows
from convexcnn.data.stored_rows import FileRows
from convexcnn.errors import DataError


def read_images(
    X: ArrayLike,
    model: BaseEstimator,
    image_shape: tuple[int, ...] | None,
    *,
    at_least: int = 0,
) -> ImageRows:
    """Return images (n, channels, height, width); those that are rows of a file stay there.

    Raises:
        DataError: X is neither rows of images nor what ``as_images`` takes.
        TypeError: as for ``read_array``.
    """
    if isinstance(X, FileRows | RowView):
        if len(X.shape) != 4 or len(X) < at_least:
            raise DataError(f"X has shape {X.shape}; give images (n, channels, height, width)")
        return X
    return as_images(read_array(X, model, at_least=at_least), image_shape)


def read_array(X: ArrayLike, model: BaseEstimator, *, at_least: int = 0) -> Any:
    """Return images as an array of numbers, by scikit-learn's own rules, or as the tensor they are.

    Raises:
        DataError: complex, ragged or empty input, or strings.
        TypeError: sparse matrices, or objects that are no numbers.
    """
    if hasattr(X, "detach"):
        return X
    try:
        return check_array(
            X,
            allow_nd=True,
            ensure_all_finite=False,  # convexcnn.data.as_images names the image
            ensure_min_samples=at_least,
            estimator=model,
        )
    except ValueError as error:
        raise DataError(" ".join(str(error).split())) from error


def read_labels(y: ArrayLike, n: int) -> NDArray[Any]:
    """Return labels (n,); a column of them (n, 1) with scikit-learn's warning.

    Raises:
        DataError: not one per image, or fractions.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = column_or_1d(labels, warn=True)
    if labels.ndim != 1 or len(labels) != n:
        raise DataError(
            f"y has shape {labels.shape}; give one label for each of the {n} images: y should be "
            "a 1d array"
        )
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels)):
        raise DataError("y holds fractions or NaN, continuous values; give one class per image")
    return labels


def weighing(
    images: ImageRows, targets: NDArray[Any], weights: NDArray[np.float64] | None
) -> tuple[ImageRows, NDArray[Any], NDArray[np.float64] | None]:
    """Images of positive weight, their labels, and their weights over the mean of these."""
    if weights is None:
        return images, targets, None
    kept = weights > 0
    if not kept.all():
        images = take_rows(images, np.flatnonzero(kept))
        targets, weights = targets[kept], weights[kept]
    return images, targets, weights / weights.mean()


def encode(targets: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes (k,) of labels, at least two, and each label's place among them, (n,)."""
    classes, labels = np.unique(targets, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"y has {len(classes)} class; a classifier needs at least two")
    return classes, labels.astype(np.int64)
