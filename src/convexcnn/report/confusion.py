"""Confusion matrices: a table for few classes, a picture and the worst mistakes for many."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convexcnn.report.formatting import count, percent

_MOST_CLASSES_IN_TABLE = 24
_MISTAKES = 5


@dataclass(frozen=True)
class Cell:
    """One count: its share of the row, as the strength of its colour."""

    text: str
    share: float
    is_diagonal: bool


@dataclass(frozen=True)
class ConfusionRow:
    """One true class: its counts (empty if there are too many classes) and its accuracy."""

    name: str
    cells: list[Cell]
    accuracy: str
    share: float


@dataclass(frozen=True)
class ConfusionView:
    """A confusion matrix ready for the page."""

    name: str
    classes: Sequence[str]
    rows: list[ConfusionRow]
    picture: str | None
    mistakes: list[str]


def confusion_view(name: str, counts: NDArray[np.int64], classes: Sequence[str]) -> ConfusionView:
    """Prepare counts (rows true, columns predicted) for the page."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    in_table = len(classes) <= _MOST_CLASSES_IN_TABLE
    rows = []
    for i, class_name in enumerate(classes):
        cells = [
            Cell(count(int(counts[i, j])), round(float(shares[i, j]), 3), i == j)
            for j in range(len(classes))
        ]
        own = float(shares[i, i]) if totals[i, 0] else None
        rows.append(
            ConfusionRow(class_name, cells if in_table else [], percent(own, 1), own or 0.0)
        )
    return ConfusionView(
        name=name,
        classes=classes,
        rows=rows,
        picture=None if in_table else _picture(shares),
        mistakes=_mistakes(counts, classes),
    )


def _mistakes(counts: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """The most frequent confusions, as "cat taken for dog (182)"."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]:
        i, j = divmod(int(place), len(classes))
        if wrong[i, j] > 0:
            found.append(f"{classes[i]} taken for {classes[j]} ({count(int(wrong[i, j]))})")
    return found


def _picture(shares: NDArray[np.float64]) -> str:
    """A mask, opaque where counts are, as a data URI: the page paints its own colour through it."""
    alpha = np.rint(255 * np.sqrt(shares)).astype(np.uint8)
    scale = max(1, 600 // len(shares))
    alpha = alpha.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    pixels = np.dstack([np.zeros_like(alpha), alpha])
    Image.fromarray(pixels, "LA").save(buffer, format="PNG", compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
