"""Loggers keep what a training measures, survive copies, and say what is missing."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from commands import typed
from convexcnn import JsonLinesLogger, TensorBoardLogger
from convexcnn.callbacks import together
from convexcnn.errors import RunError
from small import stripes, stripes_file
from tiny_models import convex, non_convex

IMAGES, LABELS = stripes(60)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_is_a_line(tmp_path):
    events: list[dict] = []
    logger = JsonLinesLogger(tmp_path / "log.jsonl")
    non_convex(callback=together(logger, events.append)).fit(IMAGES, LABELS)
    found = lines(tmp_path / "log.jsonl")
    assert len(found) == len(events) > 1
    assert [event["phase"] for event in found] == [event["phase"] for event in events]


def test_what_json_does_not_know_is_null_or_a_number(tmp_path):
    logger = JsonLinesLogger(tmp_path / "log.jsonl")
    logger({"phase": "x", "gap": float("nan"), "loss": np.float32(0.5), "at": tmp_path})
    assert lines(tmp_path / "log.jsonl") == [
        {"phase": "x", "gap": None, "loss": 0.5, "at": str(tmp_path)}
    ]


def test_a_logger_goes_through_searches(tmp_path):
    logger = JsonLinesLogger(tmp_path / "log.jsonl")
    model = convex(callback=logger)
    assert clone(model).callback.path == logger.path
    GridSearchCV(model, {"stride": [1, 2]}, cv=2, error_score="raise").fit(IMAGES, LABELS)
    assert len(lines(tmp_path / "log.jsonl")) > 8


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written"):
        JsonLinesLogger(tmp_path / "none" / "log.jsonl")
    with pytest.raises(RunError, match="cannot be written"):
        JsonLinesLogger(tmp_path)


def test_tensorboard_shows_what_was_measured(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    for step in range(3):
        logger({"phase": "sgd", "step": step, "loss": 1 / (1 + step), "seconds": 2.0, "on": True})
    logger({"phase": "path", "step": None, "beta": 0.5})
    copy = pickle.loads(pickle.dumps(logger))
    copy({"phase": "path", "step": None, "beta": 0.25})
    logger.close()
    copy.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == {"sgd/loss", "path/beta"}
    assert [(e.step, e.value) for e in read.Scalars("sgd/loss")][:2] == [(0, 1.0), (1, 0.5)]
    assert [e.step for e in read.Scalars("path/beta")] == [1, 2]


def test_the_extra_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RunError, match=r"'convexcnn\[tensorboard\]'"):
        TensorBoardLogger(tmp_path)


def test_fit_logs_where_it_is_told_to(tmp_path):
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    arguments = ["fit", tmp_path / "data.npz", "--out", tmp_path / "run"]
    arguments += ["--filter-size", "3", "--gates", "gaussian", "--n-gates", "3", "--whiten", "5"]
    assert typed(*arguments, "--log-jsonl", tmp_path / "log.jsonl").code == 0
    assert lines(tmp_path / "log.jsonl") == lines(tmp_path / "run" / "metrics.jsonl")
    arguments[3] = tmp_path / "other"
    done = typed(*arguments, "--log-jsonl", tmp_path / "no" / "log.jsonl")
    assert done.code == 1
    assert "there is no folder" in done.err


def test_a_refused_fit_makes_no_log(tmp_path):
    data, log = stripes_file(tmp_path / "data.npz", 40), tmp_path / "log.jsonl"
    options = ["--formulation", "non-convex", "--n-gates", "4"]
    done = typed("fit", data, "--out", tmp_path / "run", "--log-jsonl", log, *options)
    assert done.code == 2
    assert not log.exists()


def test_a_log_that_was_cut_off_goes_on_in_a_line_of_its_own(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"phase": "a"}\n{"pha')
    JsonLinesLogger(path)({"phase": "b"})
    assert path.read_text() == '{"phase": "a"}\n{"pha\n{"phase": "b"}\n'
