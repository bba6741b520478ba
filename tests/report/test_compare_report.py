"""The page of a comparison says what `result.json` says, whatever is missing from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from html_page import HtmlPage
from synthetic_runs import (
    CIFAR_CLASSES,
    FINAL,
    PAPER,
    WriteRun,
    compare_metrics,
    compare_result,
    run_filters,
)

from convexcnn.report import build_report
from convexcnn.report.compare_words import compare_headline, compare_summary
from convexcnn.report.curves import training_chart
from convexcnn.report.run_files import read_run


@pytest.fixture
def build(write_run: WriteRun) -> Any:
    def build_page(result: dict[str, Any], metrics: Any = None, filters: Any = None) -> HtmlPage:
        lines = compare_metrics(1, every=100) if metrics is None else metrics
        return HtmlPage(build_report(write_run(result, lines, filters)).read_text("utf-8"))

    return build_page


def steps(result: dict[str, Any], gated: list[int | None], other: list[int | None]) -> None:
    reached = {"gated": iter(gated), "non-convex": iter(other)}
    for run in result["runs"]:
        run["steps_to_accuracy"]["0.4"] = next(reached[run["formulation"]])


def test_every_section_is_there_in_order(build: Any) -> None:
    page = build(compare_result(), compare_metrics(every=50), run_filters(10, 20, 40))
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == [
        "Table 1",
        "Training",
        "Filters",
        "Mistakes",
        "Data and settings",
        "Cost and machine",
        "Make it again",
    ]
    figures = re.findall(r"Figure \d\.", page.text())
    assert figures == ["Figure 1.", "Figure 2.", "Figure 3."]


def test_table_1_has_the_results_beside_the_papers(build: Any) -> None:
    text = build(compare_result()).text()
    for formulation, name in (("gated", "convex"), ("non-convex", "non-convex")):
        here, paper = FINAL[formulation], PAPER[formulation]
        bold = " (better)" if formulation == "gated" else ""
        loss, loss_then = here["train_loss"], paper["train_loss"]
        difference = f"{loss - loss_then:+.4f}".replace("-", "\u2212")
        assert f"{name}{bold} {loss:.4f} ± 0.0008 {loss_then:.4f} {difference}" in text
        for measure in ("train_accuracy", "test_accuracy"):
            now, then = 100 * here[measure], 100 * paper[measure]
            row = f"{name}{bold} {now:.2f}% ± 0.08 {then:.2f}% {now - then:+.2f}"
            assert row in text


def test_confusion_counts_are_those_of_the_result(build: Any) -> None:
    result = compare_result()
    page = build(result)
    counts = [int(t.replace(",", "")) for tag, t in page.texts if tag == "td" and t.isdigit()]
    for matrix in result["confusion"].values():
        wanted = np.ravel(matrix).tolist()
        assert any(counts[i : i + 100] == wanted for i in range(len(counts) - 99))
    first = result["confusion"]["gated"][3]
    assert f"{100 * first[3] / sum(first):.1f}%" in page.text()


def test_one_seed_has_no_spread_and_says_so(build: Any) -> None:
    result = compare_result(1)
    for summary in result["summary"].values():
        for spread in summary.values():
            spread["std"] = None
    text = build(result).text()
    assert "±" not in text
    assert "one seed, so no spread" in text
    assert "bands" not in text


def test_without_paper_filters_log_and_confusion_the_rest_stands(build: Any) -> None:
    result = compare_result()
    result["paper"] = result["confusion"] = None
    page = build(result, metrics=[], filters=None)
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert "Training" not in headings
    assert "Filters" not in headings
    assert "Mistakes" not in headings
    assert "difference" not in page.text()
    assert "53.31%" in page.text()


def test_unknown_figures_are_dashes_and_win_nothing(build: Any) -> None:
    result = compare_result()
    result["summary"]["non-convex"] = {"train_loss": {"mean": None, "std": None}}
    text = build(result).text()
    assert "better)" not in text
    assert "non-convex –" in text


@pytest.mark.parametrize(
    ("gated", "other", "headline"),
    [
        ([100] * 3, [890] * 3, "convex program reaches 40% training accuracy in about a ninth of"),
        ([100] * 3, [1234] * 3, "in 1/12 of the non-convex network’s steps"),
        ([300] * 3, [400] * 3, "in 75% of the non-convex network’s steps"),
        (
            [400] * 3,
            [200] * 3,
            "The non-convex network reaches 40% training accuracy in about half",
        ),
        ([400] * 3, [401] * 3, "Both formulations reach 40% training accuracy after as many"),
        ([100] * 3, [None] * 3, "Only the convex program reaches 40% training accuracy"),
        (
            [100] * 3,
            [9, None, 9],
            "Only the convex program reaches 40% training accuracy with every",
        ),
        ([None] * 3, [None] * 3, "Test accuracy: convex 51.1%, non-convex 45.2%"),
    ],
)
def test_headline_says_who_needs_fewer_steps(
    write_run: WriteRun, gated: list[int | None], other: list[int | None], headline: str
) -> None:
    result = compare_result()
    steps(result, gated, other)
    assert headline in compare_headline(read_run(write_run(result)).result)


@pytest.mark.parametrize(("classes", "marked"), [(2, False), (4, False), (5, True)])
def test_an_accuracy_near_chance_is_not_marked(
    write_run: WriteRun, classes: int, marked: bool
) -> None:
    run = read_run(write_run(compare_result(classes=CIFAR_CLASSES[:classes])))
    headline, summary = compare_headline(run.result), compare_summary(run.result)
    assert ("40%" in headline, "40%" in summary) == (marked, marked)
    assert headline.startswith("Test accuracy: convex 51.1%, non-convex 45.2%") != marked


def test_summary_names_what_each_formulation_is_better_at(write_run: WriteRun) -> None:
    result = compare_result()
    steps(result, [100, 110, 120], [None, 900, None])
    result["summary"]["non-convex"]["test_accuracy"]["mean"] = 0.6
    assert compare_summary(read_run(write_run(result)).result) == (
        "To 40% training accuracy, the convex program needs 110 steps, the non-convex network "
        "gets there with one of three seeds (means over three seeds). The convex program ends "
        "better on training loss and training accuracy. The non-convex network ends better on "
        "test accuracy."
    )


def test_curves_are_the_mean_and_range_over_seeds(write_run: WriteRun) -> None:
    losses = {0: [0.5, 0.4, 0.3], 1: [0.7, 0.6, 0.5]}
    lines = [
        {"formulation": "gated", "seed": seed, "step": step, "train_loss": loss}
        for seed, of_seed in losses.items()
        for step, loss in zip((10, 20, 30), of_seed, strict=True)
    ]
    lines.append(lines[0] | {"train_loss": 0.45})  # a continued run logs a step again
    run = read_run(write_run(compare_result(2), lines))
    chart = training_chart(run.result, run.metrics, "train_loss", None)
    assert chart is not None
    (line,) = chart.lines
    assert line.x.tolist() == [10, 20, 30]
    assert line.y == pytest.approx([0.575, 0.5, 0.4])
    assert line.low == pytest.approx([0.45, 0.4, 0.3])
    assert line.high == pytest.approx([0.7, 0.6, 0.5])


def test_long_logs_are_averaged_and_keep_their_last_step(write_run: WriteRun) -> None:
    run = read_run(write_run(compare_result(1), compare_metrics(1, steps=5000, every=5)))
    chart = training_chart(run.result, run.metrics, "train_accuracy", "0.4")
    assert chart is not None
    for line in chart.lines:
        assert 200 <= len(line.x) <= 300
        assert line.x[-1] == 5000
    assert [mark.label for mark in chart.marks] == ["145", "1,523"]


def test_classes_of_filters_are_named(build: Any) -> None:
    page = build(compare_result(1), filters=run_filters(10, 20, 40))
    alternatives = [attrs["alt"] for attrs in page.all_of("img")]
    for name in CIFAR_CLASSES:
        assert f"The 16 strongest filters of class {name}, strongest first" in alternatives
    assert "Filters 33–40 of the non-convex network by strength" in alternatives
