"""Commands that take RUN and DATA read DATA as the run read it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("name", ["more", "0.png"])
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_what_may_not_be_looked_into_is_named(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("0.png", "1.png", "more/2.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / place)
    kind = "scandir" if name == "more" else "stat"
    look = getattr(os, kind)

    def refuse(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, *rest, **options)

    with monkeypatch.context() as patches:
        patches.setattr(os, kind, refuse)
        stopped = typed(command, "run", tmp_path)
        left_out = typed(command, "run", tmp_path, "--skip-bad")
    assert (stopped.code, left_out.code) == (1, 0)
    assert f"{tmp_path / name}: cannot be looked into (Permission denied)" in stopped.err
    assert f"Skipped: {tmp_path / name}" in left_out.err


def test_what_lies_beside_pictures_is_counted(tmp_path: Path) -> None:
    data, ash, more = tmp_path / "data", tmp_path / "data/ash", tmp_path / "data/beech/more"
    for folder in (ash, more.parent, more):
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.new("L", (8, 8)).save(ash / "5.tiff")
    (ash / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (ash / ".hidden").touch()
    options = ("--filter-size", "3", "--gates", "gaussian", "--n-gates", "2", "--beta", "1")
    for words in (
        ("data", "info", data),
        ("fit", data, "--out", tmp_path / "run", *options),
        ("evaluate", tmp_path / "run", data),
        ("certify", tmp_path / "run", data),
    ):
        done = typed(*words)
        assert done.code == 0, done.err
        assert "Passed over: 3 files or folders beside the pictures, such as " in done.err
        assert str(ash / "5.tiff") in done.err
    more.rename(tmp_path / "more")
    (ash / "5.tiff").unlink()
    (ash / "gone.png").unlink()
    done = typed("data", "info", data, "--json")
    assert "Passed over" not in done.err
    assert done.json()["passed_over"] == 0


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
