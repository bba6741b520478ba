"""The page of a comparison: Table 1 and Figures 1 to 3 of the paper protocol."""

from __future__ import annotations

from dataclasses import dataclass

from convexcnn.report.colophon import colophon
from convexcnn.report.compare_words import (
    compare_headline,
    compare_summary,
    marked_accuracy,
    winner_of,
)
from convexcnn.report.confusion import confusion_view
from convexcnn.report.curves import mean_steps_to, points_averaged, training_chart
from convexcnn.report.filter_pictures import filter_views
from convexcnn.report.formatting import (
    UNKNOWN,
    count,
    counted,
    duration,
    fixed,
    memory,
    percent,
    signed,
)
from convexcnn.report.page import ChartView, Page, chart_view
from convexcnn.report.results import (
    FORMULATIONS,
    MEASURES,
    CompareResult,
    Formulation,
    SeedRun,
    Spread,
)
from convexcnn.report.run_files import RunFiles

_NAMES: dict[Formulation, str] = {"gated": "convex", "non-convex": "non-convex"}
_MEASURE_LABELS = {
    "train_loss": ("Training loss", "lower is better"),
    "train_accuracy": ("Training accuracy", "higher is better"),
    "test_loss": ("Test loss", "lower is better"),
    "test_accuracy": ("Test accuracy", "higher is better"),
}


@dataclass(frozen=True)
class TableRow:
    """One formulation's figure beside the paper's."""

    name: str
    here: str
    spread: str
    paper: str
    difference: str
    wins: bool


@dataclass(frozen=True)
class TableGroup:
    """The rows of one measure."""

    label: str
    direction: str
    rows: list[TableRow]


def compare_page(run: RunFiles, result: CompareResult) -> Page:
    """Prepare the page of a comparison."""
    data = result.circumstances.data
    seeds = len({entry.seed for entry in result.runs})
    target = marked_accuracy(result)
    return Page(
        template="compare.html",
        title=f"Convex against non-convex on {data.name}",
        kicker=f"Convex against non-convex on {data.name}",
        headline=compare_headline(result),
        summary=compare_summary(result),
        content={
            "facts": [
                f"{count(data.n_train)} training and {count(data.n_test)} test images",
                counted(seeds, "seed"),
                duration(result.circumstances.seconds),
                f"{memory(result.circumstances.peak_memory_bytes)} at most",
            ],
            "groups": _table(result),
            "with_paper": bool(result.paper),
            "seeds": seeds,
            "effort": _effort(result),
            "target": percent(float(target), 0) if target else "",
        },
        charts=_charts(run, result, seeds),
        filters=filter_views(run),
        confusions=[
            confusion_view(f"{_NAMES[name]}", result.confusion[name], data.classes)
            for name in FORMULATIONS
            if name in result.confusion
        ],
        colophon=colophon(run, "compare"),
    )


def _table(result: CompareResult) -> list[TableGroup]:
    groups = []
    for measure in MEASURES:
        if not any(measure in result.summary[name] for name in FORMULATIONS):
            continue
        rows = [_table_row(result, name, measure) for name in FORMULATIONS]
        groups.append(TableGroup(*_MEASURE_LABELS[measure], rows))
    return groups


def _table_row(result: CompareResult, formulation: Formulation, measure: str) -> TableRow:
    spread = result.summary[formulation].get(measure, Spread(None, None))
    paper = result.paper.get(formulation, {}).get(measure)
    is_accuracy = measure.endswith("accuracy")
    show = percent if is_accuracy else fixed
    digits, scale = (2, 100.0) if is_accuracy else (4, 1.0)
    mean, std = spread.mean, spread.std
    has_spread = std is not None and len(result.runs_of(formulation)) > 1
    return TableRow(
        name=_NAMES[formulation],
        here=show(mean),
        spread=f"± {fixed(scale * (std or 0.0), digits)}" if has_spread else "",
        paper=show(paper),
        difference=UNKNOWN
        if mean is None or paper is None
        else signed(scale * (mean - paper), digits),
        wins=winner_of(result, measure) == formulation,
    )


def _effort(result: CompareResult) -> list[tuple[str, str, str]]:
    """Per formulation: steps to the marked accuracy, and seconds per run."""
    target = marked_accuracy(result)
    rows = []
    for formulation in FORMULATIONS:
        runs = result.runs_of(formulation)
        steps = mean_steps_to(result, formulation, target) if target else None
        seconds = [entry.seconds for entry in runs if entry.seconds is not None]
        mean = sum(seconds) / len(seconds) if seconds else None
        rows.append((_NAMES[formulation], _steps_cell(steps, runs, target), duration(mean)))
    return rows


def _steps_cell(steps: float | None, runs: list[SeedRun], target: str | None) -> str:
    if steps is not None:
        return count(round(steps))
    if any(run.steps_to_accuracy.get(target or "") is not None for run in runs):
        return "not with every seed"
    return "not reached"


def _charts(run: RunFiles, result: CompareResult, seeds: int) -> list[ChartView]:
    target = marked_accuracy(result)
    views = []
    for measure, marked in (("train_loss", None), ("train_accuracy", target)):
        chart = training_chart(result, run.metrics, measure, marked)
        if chart is None:
            continue
        sentences = [f"{chart.title} against steps of stochastic gradient descent."]
        if seeds > 1:
            sentences.append(f"Lines: means over {counted(seeds, 'seed')}; bands: their range.")
        averaged = points_averaged(run.metrics, measure)
        if averaged > 1:
            sentences.append(f"Every point averages {averaged} logged steps.")
        if marked is not None and chart.marks:
            level = percent(float(marked), 0)
            sentences.append(f"Dots: the first step at {level}, with its number below.")
        views.append(chart_view(chart, " ".join(sentences)))
    return views
