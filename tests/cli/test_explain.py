"""`convexcnn explain` as a user types it, on a model that trains in a blink."""

from __future__ import annotations

import json
import shutil
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
        (("picture.png", "--data", "data.npz"), 2, "--data is for --test-index and --faithfulness"),
        (("--data", "data.npz", "--faithfulness", "3", "--out", "x"), 2, "give IMAGES or --test"),
        (("picture.png", "--image-size", "9"), 2, "--image-size is for test images; name --data"),
    ],
)
def test_wrong_use_says_what_to_do(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = typed("explain", "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_a_model_with_maxima_is_explained_by_occlusion(trained: Path, tmp_path: Path) -> None:
    images, labels = stripes(48, size=9, channels=3)
    save_model(convex(pool="max", betas=0.1, regulariser="group").fit(images, labels), tmp_path)
    done = typed("explain", tmp_path, "picture.png", "--json")
    assert (done.code, done.json()["methods"]) == (0, ["occlusion"])
    assert "Only occlusion explains a model with max pooling" in done.err
    done = typed("explain", tmp_path, "picture.png", "--method", "gradcam")
    assert done.code == 2
    assert "this model has max pooling: give --method occlusion" in done.err


def test_faithfulness_is_that_of_the_class_asked_for() -> None:
    options = ("--data", "data.npz", "--faithfulness", "6", "--method", "contributions", "--json")
    tables = [
        typed("explain", "run", *options, *more).json()["faithfulness"]["table"][0]["deletion"]
        for more in ((), ("--target", "down"), ("--target", "oblique"))
    ]
    assert len(set(tables)) == 3


def test_pictures_that_are_read_are_not_written_over(trained: Path, tmp_path: Path) -> None:
    for name in ("a.png", "001-a.png"):
        (tmp_path / name).write_bytes((trained / "picture.png").read_bytes())
    pictures = (tmp_path / "a.png", tmp_path / "001-a.png")
    done = typed("explain", "run", *pictures, "--method", "gradient", "--out", tmp_path)
    assert done.code == 1
    assert "001-a.png is a picture that was read; name another folder with --out" in done.err
    assert pictures[1].read_bytes() == pictures[0].read_bytes()


def test_what_others_have_written_is_not_written_over(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "explanations.json").write_text('{"of": "another program"}')
    done = typed("explain", "run", "picture.png", "--method", "gradient", "--out", tmp_path)
    assert done.code == 1
    assert "is none of ours" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["explanations.json"]
    (tmp_path / "explanations.json").unlink()
    for _ in range(2):  # its own are replaced
        arguments = ("explain", "run", "picture.png", "--method", "gradient", "--out", tmp_path)
        assert typed(*arguments).code == 0


@pytest.mark.parametrize("command", ["predict", "explain", "evaluate"])
def test_pictures_in_other_units_are_noticed(command: str, trained: Path, tmp_path: Path) -> None:
    images, labels = stripes(48, size=9, channels=3)
    model = convex().fit((images / 255).astype(np.float32), labels)
    model.class_names = CLASSES
    save_model(model, tmp_path / "fractions")
    what = "data.npz" if command == "evaluate" else "picture.png"
    words = "are far from those the model was trained on"
    assert words in typed(command, tmp_path / "fractions", what).err
    assert words not in typed(command, "run", what).err
    fractions = {"images": images / np.float32(255), "labels": labels, "classes": np.array(CLASSES)}
    np.savez(tmp_path / "fractions.npz", **fractions)
    assert words in typed("evaluate", "run", tmp_path / "fractions.npz").err


def test_methods_are_those_of_the_library() -> None:
    assert tuple(METHODS) == explain_command.METHODS
    assert set(explained.TITLES) == set(METHODS)


def test_a_long_name_of_a_picture_is_cut(tmp_path: Path) -> None:
    picture = tmp_path / ("ä" * 120 + ".png")
    shutil.copy("picture.png", picture)
    done = typed("explain", "run", picture, "--out", tmp_path / "why", "--method", "gradcam")
    assert done.code == 0
    assert (tmp_path / "why" / ("001-" + "ä" * 50 + ".png")).is_file()
