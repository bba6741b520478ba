"""A handful of test images and their maps: what the report of a run shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.dataset import ImageSplit
from convexcnn.explain.methods import METHODS
from convexcnn.models.base import BlockClassifier

RIGHT, WRONG = 4, 2
"""Images that were classified correctly, and incorrectly."""

MAPS = ("contributions", "occlusion", "gradcam")


def explain_examples(model: BlockClassifier, split: ImageSplit) -> dict[str, NDArray[Any]]:
    """Explain the predicted class of a few images.

    Taken are the first image that was classified correctly in each of several classes, and the
    first ones of several that were not: nobody has picked those that look good.

    Args:
        model: fitted on labels out of 0..k-1.
        split: labelled images of the model's shape.

    Returns:
        Arrays for one safetensors file: ``images`` as they are, ``index`` in the split, ``labels``,
        ``predicted`` labels, ``scores`` (m, columns), ``columns`` (their labels), and a map
        (m, height, width) under each of ``MAPS``.
    """
    scores = model.scores(split.images)
    best = scores.argmax(1)
    predicted = model.classes_[best].astype(np.int64)
    chosen = choose_examples(split.labels, predicted)
    images, targets = split.images[chosen], best[chosen]
    return {
        "images": np.ascontiguousarray(images),
        "index": chosen,
        "labels": split.labels[chosen],
        "predicted": predicted[chosen],
        "scores": scores[chosen],
        "columns": model.classes_.astype(np.int64),
        **{name: np.ascontiguousarray(METHODS[name](model, images, targets)) for name in MAPS},
    }


def choose_examples(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], right: int = RIGHT, wrong: int = WRONG
) -> NDArray[np.int64]:
    """Return the first images of different classes, right ones and then wrong ones.

    Args:
        labels: (n,) true classes.
        predicted: (n,) predicted classes.
        right: at most so many that were classified correctly.
        wrong: at most so many that were not.

    Returns:
        Their places, those of each kind in order.
    """
    places: list[int] = []
    for kind, most in ((labels == predicted, right), (labels != predicted, wrong)):
        candidates = np.flatnonzero(kind)
        _, first = np.unique(labels[candidates], return_index=True)
        places += sorted(candidates[first].tolist())[:most]
    return np.asarray(places, np.int64)
