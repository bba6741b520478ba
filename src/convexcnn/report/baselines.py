"""The networks that a stack is measured against: what `result.json` says, a table and a chart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convexcnn.report.formatting import UNKNOWN, count, duration, fixed, percent
from convexcnn.report.line_chart import Line, LineChart
from convexcnn.report.node import Node

NAMES = {"alexnet": "AlexNet", "vgg11": "VGG-11", "greedy": "greedy SGD"}

StackPoints = list[tuple[float, float]]
"""Minutes and accuracy of a stack after each of its blocks."""


@dataclass(frozen=True)
class Baseline:
    """A network trained by descent; `curve` has minutes and validation accuracy."""

    name: str
    train: float | None
    validation: float | None
    test: float | None
    minutes: float
    epochs: float
    parameters: int
    curve: tuple[tuple[float, float], ...]


def read_baseline(node: Node) -> Baseline:
    """Read one entry of `baselines`."""
    network = node["network"].text()
    points = [point for point in node["curve"].items() if point.optional("validation_accuracy")]
    return Baseline(
        name=NAMES.get(network, network),
        train=_accuracy(node, "train"),
        validation=_accuracy(node, "validation"),
        test=_accuracy(node, "test"),
        minutes=node["minutes"].number(),
        epochs=node["epochs"].number(),
        parameters=node["parameters"].integer(),
        curve=tuple(
            (point["seconds"].number() / 60, point["validation_accuracy"].fraction())
            for point in points
        ),
    )


def baseline_rows(baselines: tuple[Baseline, ...]) -> list[list[str]]:
    """Name, test and training accuracy, time, epochs and weights of every network."""
    return [
        [
            baseline.name,
            percent(baseline.test),
            percent(baseline.train),
            duration(60 * baseline.minutes),
            fixed(baseline.epochs, 1),
            count(baseline.parameters),
        ]
        for baseline in baselines
    ]


def stack_row(test: float | None, train: float | None, seconds: float | None) -> list[str]:
    """The stack's row above them."""
    return [
        "This stack",
        percent(test),
        percent(train),
        UNKNOWN if seconds is None else duration(seconds),
        UNKNOWN,
        UNKNOWN,
    ]


def level_lines(baselines: tuple[Baseline, ...], depth: int) -> list[Line]:
    """The test accuracy of every network as a level line in the chart of accuracy against depth."""
    return [
        Line(b.name, "non-convex", np.array([1.0, depth]), np.array([b.test, b.test]))
        for b in baselines
        if b.test is not None and math.isfinite(b.test)
    ]


def time_chart(baselines: tuple[Baseline, ...], stack: StackPoints) -> LineChart | None:
    """Validation accuracy against minutes, of the stack and the networks; None without networks."""
    drawn = [(baseline.name, "non-convex", baseline.curve) for baseline in baselines]
    drawn.append(("this stack", "convex", tuple(stack)))
    lines = []
    for name, colour, curve in drawn:
        if curve:
            x, y = np.array(curve).T
            lines.append(Line(name, colour, x, y, markers=colour == "convex"))
    if not baselines or not lines:
        return None
    ends = "; ".join(
        f"{line.label} {percent(float(line.y[-1]))} after {duration(60 * float(line.x[-1]))}"
        for line in lines
    )
    return LineChart(
        name="time",
        title="Accuracy against time",
        description=f"Accuracy on validation images against minutes of training: {ends}.",
        x_label="minutes of training",
        lines=lines,
        in_percent=True,
    )


def _accuracy(node: Node, key: str) -> float | None:
    scores = node.optional(key)
    value = None if scores is None else scores.optional("accuracy")
    return None if value is None else value.fraction()
