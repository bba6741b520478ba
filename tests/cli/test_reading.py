"""Commands that take RUN and DATA read DATA as the run read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexcnn.cli.application import main
from convexcnn.cli.run_folder import write_json, write_toml
from convexcnn.cli.trained import reading_of
from convexcnn.data import load_dataset
from convexcnn.models import save_model
from small import stripes
from tiny_models import convex

READING = {"image_size": 8, "seed": 3, "skip_bad": True}
NOT_GIVEN = {"image_size": None, "seed": None, "skip_bad": False}

Finish = Callable[..., dict[str, Any]]


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


@pytest.fixture
def finish(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Finish:
    """Type a command in that folder."""
    monkeypatch.chdir(folder)

    def type_command(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--json"])
        output = capsys.readouterr()
        assert exit_.value.code == 0, output.err
        value = json.loads(output.out)
        assert isinstance(value, dict)
        return value

    return type_command


def fingerprint(folder: Path, seed: int) -> str:
    return load_dataset(folder / "data.npz", seed=seed, image_size=8).fingerprint()


@pytest.mark.parametrize("run", ["run", "both/models/gated"])
def test_evaluate_sets_aside_what_the_run_set_aside(run: str, finish: Finish, folder: Path) -> None:
    found = finish("evaluate", run, "data.npz")["data"]
    assert found["fingerprint"] == fingerprint(folder, 3)
    other = finish("evaluate", run, "data.npz", "--seed", "0")["data"]
    assert other["fingerprint"] == fingerprint(folder, 0) != found["fingerprint"]


def test_explain_takes_test_images_that_the_run_did_not_train_on(
    finish: Finish, folder: Path
) -> None:
    arguments = ("--data", "data.npz", "--method", "gradcam", "--target", "0")
    words = [word for index in range(4) for word in ("--test-index", str(index))]
    found = finish("explain", "run", *arguments, *words)["explanations"]
    test = load_dataset(folder / "data.npz", seed=3, image_size=8).test
    assert test is not None
    train = load_dataset(folder / "data.npz", seed=3, image_size=8).train
    scores = convex(betas=0.1).fit(train.images, train.labels).scores(test.images[:4])
    assert [entry["score"] for entry in found] == pytest.approx(scores[:, 0].tolist(), abs=1e-4)


def test_bad_pictures_are_left_out_only_where_that_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    Path("bad.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "run", "bad.png", "--data", "data.npz", "--test-index", "0"])
    assert exit_.value.code == 1
    assert "bad.png" in capsys.readouterr().err


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
