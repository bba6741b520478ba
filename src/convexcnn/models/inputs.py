"""Images, labels and weights as an estimator is given them, checked as scikit-learn does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from convexcnn.data.preprocess import as_images, tensor_array
from convexcnn.data.rows import ImageRows, RowView, take_rows
from convexcnn.data.stored_rows import FileRows
from convexcnn.errors import DataError

LABELS = (str, int, float, np.integer, np.floating, np.bool_)
"""What may be a class, among objects of any kind."""


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


def feature_names(X: ArrayLike) -> dict[str, Any]:
    """The fitted attribute ``feature_names_in_`` if X is a table with named columns."""
    probe = BaseEstimator()
    validate_data(probe, X, skip_check_array=True, ensure_2d=False)
    return dict(vars(probe))


def check_feature_names(X: ArrayLike, model: BaseEstimator) -> None:
    """Compare the names of columns with those of the training, by scikit-learn's own rules.

    Raises:
        DataError: other names, or another order.
    """
    if hasattr(X, "detach"):
        return
    try:
        validate_data(model, X, reset=False, skip_check_array=True, ensure_2d=False)
    except ValueError as error:
        raise DataError(" ".join(str(error).split())) from error


def read_labels(y: ArrayLike, n: int) -> NDArray[Any]:
    """Return labels (n,); a column of them (n, 1) with scikit-learn's warning.

    Raises:
        DataError: not one per image, some of them missing, or neither names nor whole numbers.
    """
    labels = label_array(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = column_or_1d(labels, warn=True)
    if labels.ndim != 1 or len(labels) != n:
        raise DataError(
            f"y has shape {labels.shape}; give one label for each of the {n} images: y should be "
            "a 1d array"
        )
    if labels.dtype.kind == "O":
        _check_objects(labels)
    elif labels.dtype.kind == "f":
        _check_whole(labels)
    elif labels.dtype.kind not in "biuU":
        raise DataError(f"y holds {labels.dtype}; give names or whole numbers, one per image")
    return labels


def label_array(y: ArrayLike) -> NDArray[Any]:
    """Return labels as an array of any shape.

    Raises:
        DataError: ragged lists, or labels that a mask leaves out.
    """
    if hasattr(y, "detach"):
        y = tensor_array(y, "y")
    if np.ma.is_masked(y):
        raise DataError("y masks labels; leave images without a label out, or name their class")
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise DataError("y is ragged; give one label per image") from error
    if labels.dtype.kind == "f" and labels.dtype.itemsize > 8:
        return labels.astype(np.float64)
    return labels.astype(object) if labels.dtype.kind == "T" else labels


def _check_objects(labels: NDArray[Any]) -> None:
    """Refuse objects that are neither all names nor all whole numbers."""
    if all(isinstance(label, str) for label in labels):
        return
    for label in labels:
        if not isinstance(label, LABELS) or label != label:  # NaN alone differs from itself
            raise DataError(
                f"y holds {label!r}, which is missing or no label; give names or whole numbers, "
                "one per image"
            )
    if any(isinstance(label, str) for label in labels):
        raise DataError("y mixes names and numbers; give one or the other")
    _check_whole(labels.astype(np.float64))


def _check_whole(labels: NDArray[Any]) -> None:
    if not np.isfinite(labels).all() or not np.array_equal(labels, np.rint(labels)):
        raise DataError(
            "y holds fractions, NaN or infinity, continuous values; give one class per image"
        )


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
