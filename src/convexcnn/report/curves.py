"""Which lines a run's charts show: training curves over seeds, and the path of beta."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convexcnn.report.baselines import StackPoints, level_lines, time_chart
from convexcnn.report.formatting import count, fixed, percent, scientific
from convexcnn.report.line_chart import Line, LineChart, Mark
from convexcnn.report.node import Node
from convexcnn.report.results import (
    ACCURACIES,
    FORMULATIONS,
    Block,
    CompareResult,
    FitResult,
    Formulation,
    Scores,
)

LABELS: dict[Formulation, str] = {"gated": "convex", "non-convex": "non-convex"}
COLOURS: dict[Formulation, str] = {"gated": "convex", "non-convex": "non-convex"}
_MOST_POINTS = 300

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def training_chart(
    result: CompareResult, metrics: tuple[Node, ...], measure: str, target: str | None
) -> LineChart | None:
    """Training loss or accuracy against steps, both formulations, None if nothing was logged.

    `target` is the accuracy of which the crossing is marked, as written in `steps_to_accuracy`.
    """
    lines = []
    for formulation in FORMULATIONS:
        curves = _curves_by_seed(metrics, formulation, measure)
        if curves:
            lines.append(_line_over_seeds(formulation, curves))
    if not lines:
        return None
    is_accuracy = measure == "train_accuracy"
    marks = _crossings(result, target) if target is not None else []
    show = percent if is_accuracy else fixed
    ends = "; ".join(f"{line.label} ends at {show(float(line.y[-1]))}" for line in lines)
    noun = "accuracy" if is_accuracy else "loss"
    return LineChart(
        name=f"training-{noun}",
        title=f"Training {noun}",
        description=f"Training {noun} against steps: {ends}.",
        x_label="steps",
        lines=lines,
        marks=marks,
        level=float(target) if target is not None else None,
        in_percent=is_accuracy,
    )


def mean_steps_to(result: CompareResult, formulation: Formulation, target: str) -> float | None:
    """Steps to an accuracy, the mean over seeds; None unless every seed reached it."""
    steps = [run.steps_to_accuracy.get(target) for run in result.runs_of(formulation)]
    reached = [step for step in steps if step is not None]
    return float(np.mean(reached)) if reached and len(reached) == len(steps) else None


def beta_chart(block: Block, name: str) -> LineChart | None:
    """Training and validation accuracy along the path of beta; None for fewer than two points."""
    points = sorted(block.path, key=lambda point: point.beta)
    if len(points) < 2:
        return None
    betas = np.array([point.beta for point in points])
    accuracies = {
        ("training", "muted"): [p.train.accuracy for p in points],
        ("validation", "convex"): [p.validation.accuracy if p.validation else None for p in points],
    }
    lines = [
        _path_line(label, colour, betas, values)
        for (label, colour), values in accuracies.items()
        if any(value is not None for value in values)
    ]
    if not lines:
        return None
    chosen, marks = lines[-1], []
    if block.beta is not None:
        nearest = int(np.argmin(np.abs(betas - block.beta)))
        if math.isclose(betas[nearest], block.beta, rel_tol=1e-6) and np.isfinite(
            chosen.y[nearest]
        ):
            label = f"β = {scientific(block.beta)}"
            marks = [Mark(block.beta, float(chosen.y[nearest]), label, chosen.colour)]
    return LineChart(
        name=name,
        title="Accuracy along the path of β",
        description=f"{' and '.join(line.label for line in lines)} accuracy against beta, from "
        f"{scientific(betas[0])} to {scientific(betas[-1])}.",
        x_label="β (stronger regularisation to the right)",
        lines=lines,
        marks=marks,
        log_x=bool(betas[0] > 0),
        in_percent=True,
    )


def depth_chart(result: FitResult) -> LineChart | None:
    """Accuracy of every block's own head against depth, and of all heads so far; None for one."""
    blocks = result.blocks
    if len(blocks) < 2:
        return None
    depth = np.arange(1.0, len(blocks) + 1)
    scores: dict[tuple[str, str], list[Scores | None]] = {
        ("training", "muted"): [block.train for block in blocks],
        ("test", "convex"): [block.test for block in blocks],
        ("all heads", "ink"): [block.stack for block in blocks],
    }
    lines = []
    for (label, colour), values in scores.items():
        accuracies = [value.accuracy if value else None for value in values]
        if any(accuracy is not None for accuracy in accuracies):
            lines.append(_path_line(label, colour, depth, accuracies))
    if not lines:
        return None
    levels = level_lines(result.baselines, len(blocks))
    ends = "; ".join(
        f"{line.label} from {percent(float(line.y[0]))} to {percent(float(line.y[-1]))}"
        for line in lines
    )
    beside = "".join(f" {line.label} has {percent(float(line.y[0]))}." for line in levels)
    return LineChart(
        name="depth",
        title="Accuracy against depth",
        description=f"Accuracy of the heads of blocks 1 to {len(blocks)}: {ends}.{beside}",
        x_label="block",
        lines=[*levels, *lines],
        in_percent=True,
        whole_x=True,
    )


def baseline_chart(result: FitResult) -> LineChart | None:
    """Accuracy of a stack and its baselines against time; None for a run without baselines."""
    points: StackPoints = []
    seconds = 0.0
    for block in result.blocks:
        seconds += block.seconds or 0.0
        if block.stack is not None and block.stack.accuracy is not None:
            points.append((seconds / 60, block.stack.accuracy))
    return time_chart(result.baselines, points)


def descent_charts(metrics: tuple[Node, ...], formulation: str) -> list[LineChart]:
    """Training curves of the descents in a fit's log: of the model, and of the gates if learned.

    "network that lends gates" (or neurons) is the non-convex one whose filters a block takes; of
    that one only the accuracy is drawn. Baselines have a chart of their own.
    """
    phases = dict.fromkeys(str(event.mapping().get("phase", "")) for event in metrics)
    phases = {phase: None for phase in phases if not phase.startswith("baseline ")}
    charts: list[LineChart] = []
    for phase in phases:
        events = tuple(e for e in metrics if str(e.mapping().get("phase", "")) == phase)
        if "network that lends" in phase:
            chart = _descent_chart(events, "train_accuracy", "non-convex")
            if chart is not None:
                lent = phase.rpartition(" ")[2]
                title = f"Training accuracy of the network that lends its {lent}"
                name = "gates-accuracy"
                block, of_stack, _ = phase.partition(":")
                if of_stack:
                    title = f"Network that lends {lent}, {block}"
                    name = f"{name}-{len(charts) + 1}"
                charts.append(replace(chart, name=name, title=title))
            continue
        colour = "non-convex" if formulation == "non-convex" else "convex"
        both = (_descent_chart(events, f"train_{m}", colour) for m in ("loss", "accuracy"))
        charts += [chart for chart in both if chart is not None]
    return charts


def _descent_chart(events: tuple[Node, ...], measure: str, colour: str) -> LineChart | None:
    values = {
        event["step"].number(): _measured(event, measure)
        for event in events
        if event.mapping().get(measure) is not None and event.mapping().get("step") is not None
    }
    if len(values) < 2:
        return None
    x, y = np.array(list(values)), np.array(list(values.values()))
    noun = measure.removeprefix("train_")
    return LineChart(
        name=f"training-{noun}",
        title=f"Training {noun}",
        description=f"Training {noun} against steps, from {fixed(y[0])} to {fixed(y[-1])}.",
        x_label="steps",
        lines=[Line("training", colour, x, y)],
        in_percent=noun == "accuracy",
    )


def points_averaged(metrics: tuple[Node, ...], measure: str) -> int:
    """How many logged steps one plotted point averages."""
    longest = max(
        (len(x) for f in FORMULATIONS for x, _ in _curves_by_seed(metrics, f, measure).values()),
        default=0,
    )
    return max(1, math.ceil(longest / _MOST_POINTS))


def _curves_by_seed(
    metrics: tuple[Node, ...], formulation: Formulation, measure: str
) -> dict[int, Curve]:
    """Steps and values of every seed; of a step logged twice (a continued run) the last counts."""
    logged: dict[int, dict[float, float]] = {}
    for line in metrics:
        entry = line.mapping()
        if entry.get("formulation") == formulation and entry.get(measure) is not None:
            seed = line["seed"].integer()
            logged.setdefault(seed, {})[line["step"].number()] = _measured(line, measure)
    curves = {}
    for seed, values in logged.items():
        steps = np.array(sorted(values))
        curves[seed] = (steps, np.array([values[step] for step in steps]))
    return curves


def _measured(event: Node, measure: str) -> float:
    """A loss or an accuracy of an event of the log."""
    node = event[measure]
    return node.fraction() if measure in ACCURACIES else node.number()


def _line_over_seeds(formulation: Formulation, curves: dict[int, Curve]) -> Line:
    """Mean and range over seeds on the steps that every seed has covered."""
    steps = min((curve[0] for curve in curves.values()), key=lambda x: (x[-1], len(x)))
    values = np.stack([np.interp(steps, x, y) for x, y in curves.values()])
    size = max(1, math.ceil(len(steps) / _MOST_POINTS))
    starts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(starts, len(steps)))
    x = steps[starts + counts - 1]
    y = np.add.reduceat(values, starts, axis=1) / counts
    several = len(curves) > 1
    return Line(
        label=LABELS[formulation],
        colour=COLOURS[formulation],
        x=x,
        y=y.mean(axis=0),
        low=y.min(axis=0) if several else None,
        high=y.max(axis=0) if several else None,
    )


def _crossings(result: CompareResult, target: str) -> list[Mark]:
    marks = []
    for formulation in FORMULATIONS:
        steps = mean_steps_to(result, formulation, target)
        if steps is not None:
            label = count(round(steps))
            marks.append(Mark(steps, float(target), label, COLOURS[formulation]))
    return marks


def _path_line(
    label: str, colour: str, betas: NDArray[np.float64], accuracies: list[float | None]
) -> Line:
    values = np.array([math.nan if value is None else value for value in accuracies])
    return Line(label, colour, betas, values, markers=True)
