"""The page of a fit: how well it classifies, and how far it is from the optimum."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from convexcnn.report.baselines import baseline_rows, stack_row
from convexcnn.report.beside import stacks_caption, stacks_chart
from convexcnn.report.colophon import Row, colophon
from convexcnn.report.confusion import confusion_view
from convexcnn.report.curves import baseline_chart, beta_chart, depth_chart, descent_charts
from convexcnn.report.explore import explore_view
from convexcnn.report.filter_pictures import filter_views
from convexcnn.report.fit_words import (
    beside_certificate,
    certificate_facts,
    certificate_words,
    fit_headline,
    fit_summary,
    kind_of,
)
from convexcnn.report.formatting import (
    UNKNOWN,
    count,
    counted,
    duration,
    fixed,
    is_known,
    memory,
    percent,
    scientific,
)
from convexcnn.report.node import Node
from convexcnn.report.page import ChartView, Page, chart_view
from convexcnn.report.results import Block, FitResult, Scores
from convexcnn.report.run_files import RunFiles
from convexcnn.report.why import why_view


@dataclass(frozen=True)
class BlockView:
    """One block: its certificate in words and figures, and its line in the table of blocks."""

    name: str
    summary: str
    words: str
    facts: list[Row]
    beside: list[Row]
    cells: list[str]


@dataclass(frozen=True)
class PhaseView:
    """One phase of training with its share of the time."""

    name: str
    time: str
    share: float


def fit_page(
    run: RunFiles, result: FitResult, stacks: Sequence[tuple[str, FitResult]] = ()
) -> Page:
    """Prepare the page of a fit; of a stack perhaps with a chart of it and others, by name."""
    data = result.circumstances.data
    kind = kind_of(result)
    name = f"{kind[:1].upper()}{kind[1:]} {result.model} network on {data.name}"
    confusions = []
    if result.confusion is not None:
        confusions.append(confusion_view("test images", result.confusion, data.classes))
    return Page(
        template="fit.html",
        title=name,
        kicker=name,
        headline=fit_headline(result),
        summary=fit_summary(result),
        content={
            "key_figures": _key_figures(result),
            "blocks": [_block_view(i, block, result) for i, block in enumerate(result.blocks, 1)],
            "block_choices": [(i, str(i)) for i in range(1, len(result.blocks) + 1)],
            "scores": _scores(result),
            "baselines": _baselines(result),
            "phases": _phases(result.phases),
        },
        charts=_charts(result, run.metrics, stacks),
        filters=filter_views(run),
        confusions=confusions,
        colophon=colophon(run, "fit"),
        why=None if run.examples is None else why_view(run.examples, data.classes),
        explore=explore_view(run.maximisers, run.column_names),
    )


def _key_figures(result: FitResult) -> list[Row]:
    """The figures under the headline; what was not recorded is left out."""
    blocks = result.blocks
    certified = [block.certificate.relative_gap if block.certificate else None for block in blocks]
    gaps = [gap for gap in certified if gap is not None and math.isfinite(gap)]
    largest = scientific(max(gaps, default=None))
    if gaps and len(gaps) < len(blocks):
        largest = f"not known for {len(blocks) - len(gaps)} of {len(blocks)} blocks"
    several = len(blocks) > 1
    gates = blocks[0].gates if blocks else None
    rows = [
        ("test accuracy", percent(result.test.accuracy, 2) if result.test else UNKNOWN),
        ("training accuracy", percent(result.train.accuracy, 2)),
        (
            "largest relative gap" if several else "relative gap",
            largest,
        ),
        ("blocks", str(len(blocks)))
        if several
        else ("gates", UNKNOWN if gates is None else count(gates)),
        ("time", duration(result.circumstances.seconds)),
        ("peak memory", memory(result.circumstances.peak_memory_bytes)),
    ]
    return [row for row in rows if row[1] != UNKNOWN]


def _block_view(number: int, block: Block, result: FitResult) -> BlockView:
    gap = block.certificate.relative_gap if block.certificate else None
    return BlockView(
        name=f"Block {number}",
        summary=_block_summary(block),
        words=certificate_words(block, result.formulation),
        facts=certificate_facts(block),
        beside=beside_certificate(block),
        cells=[
            UNKNOWN if block.gates is None else count(block.gates),
            UNKNOWN if block.neurons is None else count(block.neurons),
            scientific(block.beta),
            *_score_cells(block.train),
            *_score_cells(block.test or Scores(None, None)),
            scientific(gap),
            duration(block.seconds),
        ],
    )


def _block_summary(block: Block) -> str:
    """Size, accuracy and weight of a block's head, in one line."""
    facts = [
        "kept from an earlier run" if block.kept else "",
        "" if block.gates is None else counted(block.gates, "gate"),
        "" if block.neurons is None else counted(block.neurons, "neuron"),
        f"its head classifies {percent(block.test.accuracy, 1)} of the test images correctly"
        if block.test and is_known(block.test.accuracy)
        else "",
        f"{fixed(block.head_weight, 2)} of the prediction" if is_known(block.head_weight) else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _score_cells(scores: Scores) -> tuple[str, str]:
    return fixed(scores.loss), percent(scores.accuracy)


def _scores(result: FitResult) -> list[tuple[str, str, str]]:
    """Loss and accuracy of the whole model: on training, validation and test images.

    With one beta no image was held out, and its scores are empty: they are left out.
    """
    data = result.circumstances.data
    rows = [
        (f"{count(data.n_train)} training", result.train),
        ("validation", _validation_scores(result.blocks[-1]) if result.blocks else None),
        (f"{count(data.n_test)} test" if data.n_test else "test", result.test),
    ]
    return [
        (name, *_score_cells(scores))
        for name, scores in rows
        if scores is not None and (is_known(scores.loss) or is_known(scores.accuracy))
    ]


def _baselines(result: FitResult) -> list[list[str]]:
    """The stack and the networks it is measured against, as lines of a table."""
    if not result.baselines:
        return []
    seconds = [block.seconds for block in result.blocks if block.seconds is not None]
    test = None if result.test is None else result.test.accuracy
    stack = stack_row(test, result.train.accuracy, sum(seconds) if seconds else None)
    return [stack, *baseline_rows(result.baselines)]


def _validation_scores(block: Block) -> Scores | None:
    """The scores that chose beta; of a stack, those that weighed its heads."""
    if block.stack is not None:
        return block.stack
    return next((point.validation for point in block.path if point.beta == block.beta), None)


def _phases(phases: dict[str, float]) -> list[PhaseView]:
    """Phases with their times; those of a block of a stack are put together."""
    together: dict[str, float] = {}
    for name, seconds in phases.items():
        whole = name.partition(":")[0].replace("_", " ")
        together[whole] = together.get(whole, 0.0) + seconds
    longest = max(together.values(), default=0.0)
    return [
        PhaseView(name, duration(seconds), seconds / longest if longest > 0 else 0.0)
        for name, seconds in together.items()
    ]


def _depth_caption(result: FitResult) -> str:
    """Whose accuracy the chart of depth shows; `all heads` is not quite that of unseen images."""
    caption = "Accuracy against depth: of every block's own head"
    if any(block.stack is not None for block in result.blocks):
        caption += ", and on the validation images, which weigh them, of all heads up to that block"
    levels = " Level lines: networks trained by descent, on the test images."
    return f"{caption}.{levels if result.baselines and result.test else ''}"


def _charts(
    result: FitResult, metrics: tuple[Node, ...], stacks: Sequence[tuple[str, FitResult]]
) -> list[ChartView]:
    views = []
    depth = depth_chart(result)
    if depth is not None:
        views.append(chart_view(depth, _depth_caption(result)))
    if len(stacks) > 1:
        several = stacks_chart(stacks)
        views.append(chart_view(several, stacks_caption(several, stacks)))
    race = baseline_chart(result)
    if race is not None:
        caption = "Accuracy against time, on validation images: of all heads so far, at the end of "
        caption += "every block, and of networks trained by descent."
        views.append(chart_view(race, caption))
    for number, block in enumerate(result.blocks, start=1):
        chart = beta_chart(block, f"beta-path-{number}")
        if chart is None:
            continue
        drawn = " and ".join(line.label for line in chart.lines)
        which = f"Block {number}: {drawn}" if len(result.blocks) > 1 else drawn.capitalize()
        validated = any(line.label == "validation" for line in chart.lines)
        caption = f"{which} accuracy at "
        caption += f"{len(block.path)} strengths of regularisation β, each its own optimum."
        if chart.marks:
            caption += " The dot marks the chosen β" + (
                ", chosen on the validation images: the smallest loss among the most accurate."
                if validated
                else "."
            )
        views.append(chart_view(chart, caption, number if depth is not None else None))
    for chart in descent_charts(metrics, result.formulation):
        caption = f"{chart.title}, against steps of its descent."
        found = re.search(r"block (\d+)$", chart.title) if len(result.blocks) > 1 else None
        views.append(chart_view(chart, caption, int(found[1]) if found else None))
    return sorted(views, key=lambda view: view.block or 0)
