"""A handful of test images and their maps: what the report of a run shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.dataset import ImageSplit
from convexcnn.data.rows import row_blocks, take_rows
from convexcnn.explain.block import has_block
from convexcnn.explain.maximisers import maximise_blocks
from convexcnn.explain.methods import METHODS
from convexcnn.explain.scorer import Progress
from convexcnn.explain.stack import block_head, is_stack
from convexcnn.models.base import ImageClassifier

RIGHT, WRONG = 4, 2
"""Images that were classified correctly, and incorrectly."""

FIRST = 256
"""How many images are scored at first; more only where examples are still missing."""

TOP = 3
"""How many of the classes with the highest scores are explained."""

MAPS = ("contributions", "occlusion", "gradcam", "gradient")

Arrays = dict[str, NDArray[Any]]


def explain_examples(model: ImageClassifier, split: ImageSplit) -> Arrays:
    """Explain the predicted class of a few images.

    Taken are the first image that was classified correctly in each of several classes, and the
    first ones of several that were not: nobody has picked those that look good.

    Args:
        model: fitted on labels out of 0..k-1.
        split: labelled images of the model's shape.

    Returns:
        Arrays for one safetensors file: ``images`` as they are, ``index`` in the split, ``labels``,
        ``predicted`` labels, ``scores`` (m, columns), ``columns`` (their labels), and a map
        (m, height, width) under each of ``MAPS``; of a model with max pooling under ``occlusion``
        only. ``top`` holds the contributions to the classes with the highest scores, highest
        first, (m, t, height, width). Of a stack, ``block_scores`` (m, B, columns) are those of the
        heads of its blocks, and ``blocks`` what adds up to their scores of the predicted class,
        (m, B, height, width).
    """
    chosen, scores = _first_examples(model, split)
    images, targets = split.images[chosen], scores.argmax(1)
    splits = has_block(model) or is_stack(model)
    names = MAPS if splits else ("occlusion",)
    maps = {name: METHODS[name](model, images, targets) for name in names}
    if splits:
        highest = (-scores).argsort(axis=1, kind="stable")[:, :TOP]
        explain = METHODS["contributions"]
        maps["top"] = np.stack([explain(model, images, column) for column in highest.T], 1)
    if is_stack(model):
        heads = [block_head(model, number) for number in range(1, len(model.blocks_) + 1)]
        maps["block_scores"] = model.block_scores(images).swapaxes(0, 1)
        maps["blocks"] = np.stack([explain(head, images, targets) for head in heads], 1)
    return {
        "images": np.ascontiguousarray(images),
        "index": chosen,
        "labels": split.labels[chosen],
        "predicted": model.classes_[targets].astype(np.int64),
        "scores": scores,
        "columns": model.classes_.astype(np.int64),
        **{name: np.ascontiguousarray(values) for name, values in maps.items()},
    }


def explain_run(
    model: ImageClassifier, split: ImageSplit, progress: Progress | None = None
) -> Arrays:
    """Everything that the report of a run explains: examples, and what blocks like best.

    Args:
        model: fitted on labels out of 0..k-1.
        split: labelled test images.
        progress: called with the number of blocks done and of all.
    """
    return {**explain_examples(model, split), **maximising_images(model, split, progress)}


def maximising_images(
    model: ImageClassifier, split: ImageSplit, progress: Progress | None = None
) -> Arrays:
    """Find what every block of a model likes best, between the pixel bounds of images.

    Args:
        model: fitted.
        split: images; the bounds of bytes are 0 and 255, and otherwise those of these images.
        progress: called with the number of blocks done and of all.

    Returns:
        Arrays for one safetensors file, ``block1.class_images`` and so on: every field of
        ``BlockMaximisers``. None for a model with max pooling, whose gradients are not offered.
    """
    if not (has_block(model) or is_stack(model)):
        return {}
    lower, upper = 0.0, 255.0
    if split.images.dtype != np.uint8:
        bounds = [(block.min(), block.max()) for _, block in row_blocks(split.images)]
        lower, upper = float(np.min(bounds)), float(np.max(bounds))
    blocks = maximise_blocks(model, lower=lower, upper=upper, progress=progress)
    return {
        f"block{number}.{name}": values
        for number, block in enumerate(blocks, 1)
        for name, values in vars(block).items()
    }


def _first_examples(
    model: ImageClassifier, split: ImageSplit
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and scores of the examples; images are scored until there are enough of them."""
    few = FIRST
    while True:
        scores = model.scores(take_rows(split.images, slice(few)))
        predicted = model.classes_[scores.argmax(1)].astype(np.int64)
        chosen = choose_examples(split.labels[:few], predicted)
        if len(chosen) == RIGHT + WRONG or few >= len(split):
            return chosen, scores[chosen]
        few *= 4


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
