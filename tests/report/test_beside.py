"""Several stacks in one chart: whose lines they are, and which runs cannot stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from html_page import HtmlPage
from synthetic_runs import (
    compare_metrics,
    compare_result,
    fit_result,
    stack_result,
    write_run_folder,
)

from convexcnn.errors import RunError
from convexcnn.report import build_report
from convexcnn.report.beside import line_labels, run_names, stacks_caption, stacks_chart
from convexcnn.report.results import FitResult
from convexcnn.report.run_files import read_run


def write_stack(folder: Path, strategy: str, accuracies: list[float], **data: Any) -> Path:
    result = stack_result(len(accuracies))
    for block, accuracy in zip(result["blocks"], accuracies, strict=True):
        block |= {"strategy": strategy, "test": {"loss": 0.3, "accuracy": accuracy}}
    result["data"] = result["data"] | data
    return write_run_folder(folder, result)


def read(folder: Path) -> tuple[str, FitResult]:
    result = read_run(folder).result
    assert isinstance(result, FitResult)
    return folder.name, result


def test_every_stack_is_a_line_named_by_its_gates(tmp_path: Path) -> None:
    one = write_stack(tmp_path / "one", "sgd", [0.6, 0.7, 0.75])
    other = write_stack(tmp_path / "other", "gaussian", [0.5, 0.55])
    chart = stacks_chart([read(one), read(other)])
    assert [line.label for line in chart.lines] == ["sgd", "gaussian"]
    assert chart.lines[0].y.tolist() == [0.6, 0.7, 0.75]
    assert chart.lines[1].x.tolist() == [1, 2]
    assert chart.title == "Test accuracy against depth, by gates"
    assert "gaussian from 50.00% to 55.00%" in chart.description
    text = HtmlPage(build_report(one, [other]).read_text("utf-8")).text()
    assert f"{chart.title}: of every block's own head." in text
    assert (one / "figures" / "depth-of-runs.svg").is_file()


def test_stacks_with_the_same_gates_are_named_by_their_folders(tmp_path: Path) -> None:
    folders = [
        write_stack(tmp_path / name, "sgd", [0.5, 0.6]) for name in ("narrow", "quite-wide-blocks")
    ]
    chart = stacks_chart([read(folder) for folder in folders])
    assert [line.label for line in chart.lines] == ["narrow", "quite…ocks"]
    assert "quite-wide-blocks from" in chart.description
    caption = stacks_caption(chart, [read(folder) for folder in folders])
    assert caption.endswith("own head. quite…ocks is quite-wide-blocks.")


def test_lines_of_runs_named_alike_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("experiment-one", "experiment-two"):
        write_stack(tmp_path / name, "sgd", [0.5, 0.6])
    monkeypatch.chdir(tmp_path / "experiment-one")
    text = HtmlPage(build_report(".", ["../experiment-two"]).read_text("utf-8")).text()
    assert "head. exper…-one is experiment-one; exper…-two is experiment-two." in text


def test_parents_tell_runs_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"]
    assert run_names(folders) == ["a/run", "b/run", "other"]
    assert run_names([folders[0], folders[0]]) == ["run", "run"]
    assert run_names([tmp_path / "a" / "x" / ".." / "run", folders[1]]) == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["narrow", "wide\nblocks"], ["narrow", "wide …ocks"]),
        (["experiments/one", "experiments/two"], ["exper…/one", "exper…/two"]),
        (["cifar-a-small-run", "cifar-b-small-run"], ["cifar-a…un", "cifar-b…un"]),
        (["a-long-name-1-of-a-run", "a-long-name-2-of-a-run"], ["run 1", "run 2"]),
        (["the-same-run", "the-same-run"], ["the-s…-run", "the-s…-run"]),
    ],
)
def test_long_names_lose_a_middle_that_tells_nothing(names: list[str], labels: list[str]) -> None:
    found = line_labels(names)
    assert found == labels
    assert all(len(label) <= 10 for label in found)


def test_without_test_images_validation_images_are_drawn(tmp_path: Path) -> None:
    result = stack_result()
    for block in result["blocks"]:
        block["test"] = None
    result["test"] = result["confusion"] = None
    chart = stacks_chart([read(write_run_folder(tmp_path / name, result)) for name in "ab"])
    assert chart.title == "Validation accuracy against depth, by run"
    assert chart.lines[0].y.tolist() == [0.7, 0.74]


def test_runs_that_cannot_stand_beside_a_stack_are_refused(tmp_path: Path) -> None:
    first = write_stack(tmp_path / "first", "sgd", [0.5, 0.6])
    foreign = write_stack(tmp_path / "foreign", "dual", [0.5, 0.6], fingerprint="0" * 64)
    flat = write_run_folder(tmp_path / "flat", fit_result())
    races = write_run_folder(tmp_path / "races", compare_result(), compare_metrics(steps=20))
    for run, beside, complaint in (
        (first, [foreign], "foreign: trained or tested on other images than the first run"),
        (first, [flat], "flat: no stack of several blocks"),
        (first, [races], "races: no stack of several blocks"),
        (flat, [first], "flat: no stack of several blocks"),
        (races, [first], "races: no stack of several blocks"),
        (first, [tmp_path / "nothing"], "nothing: no such run folder"),
        (first, [first] * 5, "5 runs beside .* are too many for one chart; give 4"),
    ):
        with pytest.raises(RunError, match=complaint):
            build_report(run, beside)
        assert not (run / "report.html").is_file()
