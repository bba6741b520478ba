"""`convexcnn explain` as a user types it, on a model that trains in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import typed
from convexcnn.cli import explain as explain_command
from convexcnn.cli import explained
from convexcnn.explain import METHODS
from convexcnn.models import save_model
from files_on_disk import full_disk
from small import stripes
from tiny_models import convex

CLASSES = ("across", "down", "oblique")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, `data.npz` and a `picture.png` of another size."""
    folder = tmp_path_factory.mktemp("explain")
    images, labels = stripes(48, size=9, channels=3)
    model = convex().fit(images, labels)
    model.class_names = CLASSES
    save_model(model, folder / "run")
    rest = {"test_images": images[:6], "test_labels": labels[:6], "classes": np.array(CLASSES)}
    np.savez(folder / "data.npz", images=images, labels=labels, **rest)
    Image.fromarray(images[0].transpose(1, 2, 0)).resize((30, 20)).save(folder / "picture.png")
    return folder


@pytest.fixture(autouse=True)
def in_that_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


def test_a_picture_is_explained_and_figures_are_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    done = typed("explain", "run", "picture.png", "--out", out, "--json")
    assert done.code == 0
    (found,) = done.json()["explanations"]
    assert found["image"] == "picture.png"
    assert found["label"] is None
    assert set(found["maps"]) == set(METHODS)
    total = found["maps"]["contributions"]["sum"] + found["intercept"]
    assert total == pytest.approx(found["score"], abs=1e-5)
    assert abs(found["sum_less_score"]) < 1e-5
    (written,) = json.loads((out / "explanations.json").read_text())["explanations"]
    assert np.shape(written["values"]["occlusion"]) == (9, 9)
    with Image.open(out / written["figure"]) as figure:
        assert figure.width > 5 * 200


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)  # explanations.json, after the figures
        done = typed("explain", "run", "picture.png", "--out", tmp_path / "new" / "folder")
    assert done.code == 1
    assert f"{tmp_path / 'new' / 'folder'}: cannot be written (No space left on device)" in done.err
    assert not list(tmp_path.iterdir())


def test_test_images_are_explained_for_a_class() -> None:
    images = ("--data", "data.npz", "--test-index", "2", "--test-index", "0")
    options = ("--method", "gradcam", "--target", "down", "--json")
    done = typed("explain", "run", *images, *options)
    assert done.code == 0
    result = done.json()
    assert result["methods"] == ["gradcam"]
    assert [entry["image"] for entry in result["explanations"]] == ["test image 2", "test image 0"]
    assert [entry["label"] for entry in result["explanations"]] == ["oblique", "across"]
    assert {entry["target"] for entry in result["explanations"]} == {"down"}
    assert result["explanations"][0]["intercept"] is None


def test_people_get_a_table() -> None:
    done = typed("explain", "run", "picture.png", "--method", "contributions")
    assert done.code == 0
    assert "highest scores" in done.out
    assert "picture.png" in done.out


def test_faithfulness_is_a_table_with_a_floor() -> None:
    options = ("--data", "data.npz", "--faithfulness", "6", "--method", "contributions")
    done = typed("explain", "run", *options)
    assert done.code == 0
    assert "random" in done.out
    assert "faithfulness" in done.err
    table = typed("explain", "run", *options, "--json").json()["faithfulness"]
    assert table["images"] == 6
    assert [row["method"] for row in table["table"]] == ["contributions", "random"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing to explain"),
        (("--test-index", "1"), 2, "name --data"),
        (("--data", "data.npz", "--test-index", "6"), 1, "from 0 to 5"),
        (("--data", "data.npz", "--faithfulness", "7"), 1, "there are 6 test images"),
        (("picture.png", "--target", "cat"), 2, "choose one of across, down, oblique"),
        (("nothing.png",), 1, "no such file"),
        (("picture.png", "--block", "1"), 2, "has one block; leave out --block"),
    ],
)
def test_wrong_use_says_what_to_do(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = typed("explain", "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_methods_are_those_of_the_library() -> None:
    assert tuple(METHODS) == explain_command.METHODS
    assert set(explained.TITLES) == set(METHODS)
