"""Commands that take RUN and DATA read DATA as the run read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import typed
from convexcnn.cli.run_folder import write_json, write_toml
from convexcnn.cli.trained import reading_of
from convexcnn.data import load_dataset
from convexcnn.models import save_model
from small import stripes
from tiny_models import convex

READING = {"image_size": 8, "seed": 3, "skip_bad": True}
NOT_GIVEN = {"image_size": None, "seed": None, "skip_bad": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.npz` without test images, `run` on most of it, and a comparison in `both`."""
    folder = tmp_path_factory.mktemp("reading")
    images, labels = stripes(60, size=16)
    np.savez(folder / "data.npz", images=images, labels=labels)
    train = load_dataset(folder / "data.npz", seed=3, image_size=8).train
    model = convex(betas=0.1).fit(train.images, train.labels)
    for run, place in (("run", "run"), ("both", "both/models/gated")):
        save_model(model, folder / place)
        write_toml(folder / run / "config.toml", READING)
        write_json(folder / run / "result.json", {"format": 1})
    return folder


@pytest.fixture(autouse=True)
def in_that_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def fingerprint(folder: Path, seed: int) -> str:
    return load_dataset(folder / "data.npz", seed=seed, image_size=8).fingerprint()


@pytest.mark.parametrize("run", ["run", "both/models/gated"])
def test_evaluate_sets_aside_what_the_run_set_aside(run: str, folder: Path) -> None:
    done = typed("evaluate", run, "data.npz", "--json")
    assert done.code == 0, done.err
    found = done.json()["data"]["fingerprint"]
    assert found == fingerprint(folder, 3)
    done = typed("evaluate", run, "data.npz", "--seed", "0", "--json")
    assert done.code == 0, done.err
    assert done.json()["data"]["fingerprint"] == fingerprint(folder, 0) != found


def test_explain_takes_test_images_that_the_run_did_not_train_on(folder: Path) -> None:
    arguments = ("--data", "data.npz", "--method", "gradcam", "--target", "0", "--json")
    words = [word for index in range(4) for word in ("--test-index", str(index))]
    done = typed("explain", "run", *arguments, *words)
    assert done.code == 0, done.err
    test = load_dataset(folder / "data.npz", seed=3, image_size=8).test
    assert test is not None
    train = load_dataset(folder / "data.npz", seed=3, image_size=8).train
    scores = convex(betas=0.1).fit(train.images, train.labels).scores(test.images[:4])
    found = [entry["score"] for entry in done.json()["explanations"]]
    assert found == pytest.approx(scores[:, 0].tolist(), abs=1e-4)


def test_bad_pictures_are_left_out_only_where_that_is_asked_for() -> None:
    Path("bad.png").write_bytes(b"no picture")
    done = typed("explain", "run", "bad.png", "--data", "data.npz", "--test-index", "0")
    assert done.code == 1
    assert "bad.png" in done.err


@pytest.mark.parametrize(
    ("place", "given", "expected"),
    [
        ("run", {}, READING),
        ("run", {"seed": 0}, READING | {"seed": 0}),
        ("run", {"image_size": 9}, READING | {"image_size": 9}),
        ("both/models/gated", {}, READING),
        ("no-run", {}, {"image_size": None, "seed": 0, "skip_bad": False}),
        ("run", {"limit": None}, READING | {"limit": None}),
        ("run", {"limit": 5}, READING | {"limit": 5}),
    ],
)
def test_options_come_before_what_the_run_did(
    folder: Path, place: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert reading_of(folder / place, NOT_GIVEN | given) == expected
