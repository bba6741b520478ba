"""Damaged run folders: one line that names the file, and no report half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from synthetic_runs import WriteRun, compare_result, fit_result, run_filters

from convexcnn.errors import RunError
from convexcnn.report import build_report


def refuses(folder: Path, *words: str) -> None:
    with pytest.raises(RunError) as caught:
        build_report(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (folder / "report.html").is_file()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", "nothing", "no such run folder")


@pytest.mark.parametrize("name", ["result.json", "config.toml", "metrics.jsonl"])
def test_a_missing_file(write_run: WriteRun, name: str) -> None:
    folder = write_run(compare_result())
    (folder / name).unlink()
    refuses(folder, name, "missing")


def test_a_fit_needs_no_log(write_run: WriteRun) -> None:
    folder = write_run(fit_result())
    (folder / "metrics.jsonl").unlink()
    assert "metrics.jsonl" not in build_report(folder).read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b'{"format": 1, "kind"'),
        ("result.json", b"[1]"),
        ("result.json", b"\xff\xfe\x00"),
        ("result.json", b"[" * 100_000),
        ("result.json", b"9" * 5000),
        ("config.toml", b"a = = 1"),
        ("config.toml", b"a = " + b"9" * 5000),
        ("config.toml", b"a = " + b"[" * 5000),
        ("metrics.jsonl", b"9" * 5000),
        ("metrics.jsonl", b'{"step": 1}\n{"step"\n'),
        ("filters.safetensors", b"not tensors"),
        ("filters.safetensors", b""),
    ],
)
def test_a_damaged_file(write_run: WriteRun, name: str, content: bytes) -> None:
    folder = write_run(compare_result())
    (folder / name).write_bytes(content)
    refuses(folder, name)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["kind"], "stack"),
        (["data", "classes"], []),
        (["data", "n_train"], "many"),
        (["data", "image_shape"], 32),
        (["train", "accuracy"], "high"),
        (["blocks", 0, "certificate"], [1]),
        (["blocks", 0, "gates"], 1.5),
        (["blocks", 0, "further_neuron"], {"words": 3}),
        (["blocks", 0, "beta"], True),
        (["blocks", 0, "path", 3, "beta"], None),
        (["confusion"], [[1, 2], [3, 4]]),
        (["confusion", 2, 2], -1),
        (["phases", "gates"], "long"),
        (["seconds"], 10**400),
        (["train", "loss"], 1e200),
        (["train", "accuracy"], 65535.0),
        (["blocks", 0, "path", 3, "validation", "accuracy"], -0.1),
        (["data", "n_train"], 2**70),
        (["confusion", 1, 1], 2**64),
    ],
)
def test_a_wrong_entry_is_named_by_its_place(
    write_run: WriteRun, path: list[Any], value: object
) -> None:
    result = fit_result()
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    shown = "confusion" if value == -1 else place.lstrip(".")
    refuses(write_run(result), "result.json", shown)


@pytest.mark.parametrize("path", [["data"], ["model"], ["blocks", 0, "train"], ["train"]])
def test_a_missing_entry_is_named(write_run: WriteRun, path: list[Any]) -> None:
    result = fit_result()
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    refuses(write_run(result), "result.json", f"{path[-1]} is missing")


def test_a_comparison_of_something_else(write_run: WriteRun) -> None:
    result = compare_result()
    result["runs"][1]["formulation"] = "relu"
    refuses(write_run(result), "runs[1].formulation", "'relu'")


@pytest.mark.parametrize("key", ["x", "nan", "1e999", "40 %", ""])
def test_steps_to_what_is_no_accuracy(write_run: WriteRun, key: str) -> None:
    result = compare_result()
    result["runs"][0]["steps_to_accuracy"] = {key: 3}
    refuses(write_run(result), "runs[0].steps_to_accuracy", "such as 0.4")


def test_half_a_character_is_shown_as_a_question_mark(write_run: WriteRun) -> None:
    """JSON may hold one of a pair of surrogates, which is no text: of a file name, for instance."""
    result = fit_result(("ash\udcff", "beech"))
    result["settings"]["root"] = "\ud800"
    assert "ash?" in build_report(write_run(result)).read_text("utf-8")


def test_a_comparison_with_an_accuracy_that_is_none(write_run: WriteRun) -> None:
    result = compare_result()
    result["summary"]["gated"]["test_accuracy"]["mean"] = 52.0
    refuses(write_run(result), "summary.gated.test_accuracy.mean", "from 0 to 1", "52.0")


def test_a_log_line_with_an_accuracy_that_is_none(write_run: WriteRun) -> None:
    line = {"formulation": "gated", "seed": 0, "step": 1, "train_accuracy": 65535.0}
    refuses(write_run(compare_result(), [line, line]), "metrics.jsonl", "line 1.train_accuracy")


def test_a_log_line_with_a_wrong_entry(write_run: WriteRun) -> None:
    line = {"formulation": "gated", "seed": 0, "step": "first", "train_loss": 1.0}
    refuses(write_run(compare_result(), [line, line]), "metrics.jsonl", "line 1.step")


@pytest.mark.parametrize(
    "change",
    [
        {"convex": np.zeros((9, 4, 3, 6, 6), np.float32)},
        {"convex": np.zeros((10, 4, 6, 6), np.float32)},
        {"convex": np.zeros((10, 0, 3, 6, 6), np.float32)},
        {"convex_strength": np.zeros((10, 3), np.float32)},
        {"non_convex": np.zeros((4, 3, 6), np.float32)},
    ],
)
def test_filters_of_a_wrong_shape(write_run: WriteRun, change: dict[str, Any]) -> None:
    folder = write_run(fit_result(), [], run_filters(10, 4, 4) | change)
    refuses(folder, "filters.safetensors", "has shape")


def test_a_folder_that_cannot_be_written(write_run: WriteRun) -> None:
    folder = write_run(fit_result())
    (folder / "figures").write_text("in the way")
    refuses(folder, "figures", "cannot be written")


def test_a_failure_leaves_the_previous_report(write_run: WriteRun) -> None:
    folder = write_run(fit_result())
    before = build_report(folder).read_bytes()
    (folder / "result.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(RunError):
        build_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_filters_that_are_not_numbers_are_drawn_as_none(write_run: WriteRun) -> None:
    folder = write_run(fit_result())
    broken = np.full((3, 3, 6, 6), np.nan, np.float32)
    save_file({"non_convex": broken}, folder / "filters.safetensors")
    assert build_report(folder).is_file()
