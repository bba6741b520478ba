"""Several stacks in one chart: how much every further block adds, run by run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convexcnn.errors import RunError
from convexcnn.report.formatting import one_line, percent
from convexcnn.report.line_chart import Line, LineChart
from convexcnn.report.results import Block, CompareResult, FitResult
from convexcnn.report.run_files import read_run

COLOURS = ("convex", "non-convex", "ink", "muted", "further")
"""One per run: more lines than these could not be told apart."""

LABEL_LENGTH = 10
"""Characters that fit beside a line."""


def read_beside(folder: Path, first: FitResult) -> FitResult:
    """Read a run whose accuracies are to stand beside those of another one.

    Raises:
        RunError: it is no stack, or was trained or tested on other images.
    """
    result = require_stack(folder, read_run(folder).result)
    if result.circumstances.data.fingerprint != first.circumstances.data.fingerprint:
        raise RunError(
            f"{folder}: trained or tested on other images than the first run; accuracies of "
            f"different images say nothing about the stacks"
        )
    return result


def require_stack(folder: Path, result: FitResult | CompareResult) -> FitResult:
    """Refuse a run that has no depth.

    Raises:
        RunError: it is a comparison, or has one block only.
    """
    if not isinstance(result, FitResult) or len(result.blocks) < 2:
        raise RunError(f"{folder}: no stack of several blocks; only those are drawn against depth")
    return result


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of runs: of their folders, with as many of the parents as tell them apart.

    Args:
        folders: as they were given; `.` has a name, too. The same one twice has the same name.
    """
    parts = [folder.resolve().parts for folder in folders]
    lengths = [1] * len(parts)
    while True:
        names = [
            Path(*own[-length:]).as_posix() for own, length in zip(parts, lengths, strict=True)
        ]
        alike = [
            any(names[i] == names[j] and parts[i] != parts[j] for j in range(len(parts)))
            for i in range(len(parts))
        ]
        if not any(alike):
            return names
        lengths = [length + more for length, more in zip(lengths, alike, strict=True)]


def line_labels(names: Sequence[str]) -> list[str]:
    """Names short enough for the ends of lines, which stay different where the names are.

    Long ones lose their middle; where they differ nowhere else, all are numbered instead.
    """
    names = [one_line(name) for name in names]
    kept = LABEL_LENGTH - 1
    for tail in sorted(range(kept + 1), key=lambda n: abs(n - kept // 2)):
        labels = [
            name
            if len(name) <= LABEL_LENGTH
            else f"{name[: kept - tail]}…{name[len(name) - tail :]}"
            for name in names
        ]
        if len(set(labels)) == len(set(names)):
            return labels
    return [f"run {number}" for number in range(1, len(names) + 1)]


def stacks_chart(runs: Sequence[tuple[str, FitResult]]) -> LineChart:
    """Accuracy of every block's own head against depth, one line per stack.

    Args:
        runs: up to five stacks on the same images, with names that are used where the gates of
            two of them come from the same place.
    """
    strategies = _strategies(runs)
    names = strategies or [name for name, _ in runs]
    tested = all(block.test is not None for _, result in runs for block in result.blocks)
    lines = [
        Line(
            label,
            colour,
            np.arange(1.0, len(result.blocks) + 1),
            np.array([_accuracy(block, tested) for block in result.blocks]),
            markers=True,
        )
        for label, colour, (_, result) in zip(line_labels(names), COLOURS, runs, strict=False)
    ]
    ends = "; ".join(
        f"{name} from {percent(float(line.y[0]))} to {percent(float(line.y[-1]))}"
        for name, line in zip(names, lines, strict=True)
    )
    images, told_by = "test" if tested else "validation", "gates" if strategies else "run"
    return LineChart(
        name="depth-of-runs",
        title=f"{images.capitalize()} accuracy against depth, by {told_by}",
        description=f"Accuracy on {images} images of every block's own head: {ends}.",
        x_label="block",
        lines=lines,
        in_percent=True,
        whole_x=True,
    )


def stacks_caption(chart: LineChart, runs: Sequence[tuple[str, FitResult]]) -> str:
    """What `stacks_chart` shows, with the names that were too long for it."""
    names = _strategies(runs) or [name for name, _ in runs]
    caption = f"{chart.title}: of every block's own head."
    labels = [line.label for line in chart.lines]
    told = [f"{a} is {b}" for a, b in zip(labels, names, strict=True) if a != b]
    return f"{caption} {'; '.join(told)}." if told else caption


def _strategies(runs: Sequence[tuple[str, FitResult]]) -> list[str]:
    """Where the gates of every run come from; empty unless that tells all of them apart."""
    found = [_strategy(result) for _, result in runs]
    return found if all(found) and len(set(found)) == len(runs) else []


def _strategy(result: FitResult) -> str:
    """Where the gates of all blocks come from; nothing if that is not one place."""
    found = {block.strategy for block in result.blocks}
    return found.pop() if len(found) == 1 else ""


def _accuracy(block: Block, tested: bool) -> float:
    scores = block.test if tested else block.validation
    return math.nan if scores is None or scores.accuracy is None else scores.accuracy
