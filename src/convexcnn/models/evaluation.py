"""How well a trained model does on labelled images, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convexcnn.data.dataset import ImageSplit
from convexcnn.data.rows import take_rows
from convexcnn.distributed import ALONE, Processes
from convexcnn.models.base import ImageClassifier
from convexcnn.programs.losses import get_loss

MEASURED_AT_ONCE = 8192
"""Images whose losses are computed at once."""


@dataclass(frozen=True)
class Evaluation:
    """Measures of a model on labelled images.

    Args:
        loss: mean of the model's training loss.
        confusion: (k, k) counts, rows the true class and columns the predicted one.
    """

    loss: float
    confusion: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Part of the images that were classified correctly."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy among the images of each class; None for a class without images."""
        totals = self.confusion.sum(axis=1)
        correct = np.diagonal(self.confusion)
        return [
            c / t if t else None for c, t in zip(correct.tolist(), totals.tolist(), strict=True)
        ]

    def summary(self) -> dict[str, float]:
        """Loss and accuracy, as `result.json` holds them."""
        return {"loss": self.loss, "accuracy": self.accuracy}


def evaluate_model(
    model: ImageClassifier, split: ImageSplit, n_classes: int, processes: Processes = ALONE
) -> Evaluation:
    """Measure a model that was trained on integer labels.

    A class that had no training images has score 0 (squared loss) or minus infinity.

    Args:
        model: fitted on labels out of 0..n_classes - 1.
        split: labelled images of the model's shape.
        n_classes: k.
        processes: that share the images.
    """
    own = processes.share(len(split))
    scores = torch.from_numpy(model.scores(take_rows(split.images, own)))
    whole = processes.gather(scores, len(split), own).numpy()
    return evaluate_scores(model, whole, split.labels, n_classes)


def evaluate_scores(
    model: ImageClassifier,
    known: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    loss: str | None = None,
) -> Evaluation:
    """Measure scores that are those of a model, or of one of its blocks.

    Args:
        model: as for ``evaluate_model``.
        known: (n, classes that the model was trained on).
        labels: (n,) integers in 0..n_classes - 1.
        n_classes: k.
        loss: by which they are measured; None for the model's.
    """
    loss = loss or model.as_trained().measured_by
    missing = -np.inf if loss == "cross_entropy" else 0.0
    scores = np.full((len(labels), n_classes), missing)
    scores[:, model.classes_] = known
    predicted = model.classes_[known.argmax(1)]
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(_mean_loss(loss, scores, labels), confusion)


def _mean_loss(name: str, scores: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """Infinite for cross-entropy where an image is of a class that the model does not know."""
    loss, total = get_loss(name), 0.0
    for start in range(0, len(labels), MEASURED_AT_ONCE):
        rows = slice(start, start + MEASURED_AT_ONCE)
        found, truth = torch.from_numpy(scores[rows]), torch.from_numpy(labels[rows])
        if name == "cross_entropy":  # of targets, classes with a score of -inf would make 0 inf
            total += float(torch.nn.functional.cross_entropy(found, truth, reduction="sum"))
            continue
        targets = torch.nn.functional.one_hot(truth, scores.shape[1]).double()
        total += float(loss.value(found, targets))
    return total / len(labels)
