"""Several stacks in one chart: how much every further block adds, run by run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convexcnn.errors import RunError
from convexcnn.report.formatting import percent
from convexcnn.report.line_chart import Line, LineChart
from convexcnn.report.results import Block, CompareResult, FitResult
from convexcnn.report.run_files import read_run

COLOURS = ("convex", "non-convex", "ink", "muted", "further")
"""One per run: more lines than these could not be told apart."""

LABEL_LENGTH = 10


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


def stacks_chart(runs: Sequence[tuple[str, FitResult]]) -> LineChart:
    """Accuracy of every block's own head against depth, one line per stack.

    Args:
        runs: up to five stacks on the same images, with names that are used where the gates of
            two of them come from the same place.
    """
    strategies = [_strategy(result) for _, result in runs]
    apart = all(strategies) and len(set(strategies)) == len(runs)
    names = strategies if apart else [name for name, _ in runs]
    tested = all(block.test is not None for _, result in runs for block in result.blocks)
    lines = [
        Line(
            name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - 1]}…",
            colour,
            np.arange(1.0, len(result.blocks) + 1),
            np.array([_accuracy(block, tested) for block in result.blocks]),
            markers=True,
        )
        for name, colour, (_, result) in zip(names, COLOURS, runs, strict=False)
    ]
    ends = "; ".join(
        f"{name} from {percent(float(line.y[0]))} to {percent(float(line.y[-1]))}"
        for name, line in zip(names, lines, strict=True)
    )
    images = "test" if tested else "validation"
    return LineChart(
        name="depth-of-runs",
        title=f"{images.capitalize()} accuracy against depth, by {'gates' if apart else 'run'}",
        description=f"Accuracy on {images} images of every block's own head: {ends}.",
        x_label="block",
        lines=lines,
        in_percent=True,
        whole_x=True,
    )


def _strategy(result: FitResult) -> str:
    """Where the gates of all blocks come from; nothing if that is not one place."""
    found = {block.strategy for block in result.blocks}
    return found.pop() if len(found) == 1 else ""


def _accuracy(block: Block, tested: bool) -> float:
    scores = block.test if tested else block.validation
    return math.nan if scores is None or scores.accuracy is None else scores.accuracy
