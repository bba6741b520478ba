"""`convexcnn explain` as a user types it, on a model that trains in a blink."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convexcnn.cli import explain as explain_command
from convexcnn.cli import explained
from convexcnn.cli.application import main
from convexcnn.explain import METHODS
from convexcnn.models import save_model
from small import stripes
from tiny_models import convex

CLASSES = ("across", "down", "oblique")
Explain = Callable[..., tuple[int, str, str]]


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


@pytest.fixture
def explain(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Explain:
    """Type `convexcnn explain run ...` in that folder."""
    monkeypatch.chdir(trained)

    def type_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["explain", "run", *arguments])
        output = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, output.out, output.err

    return type_command


def test_a_picture_is_explained_and_figures_are_written(explain: Explain, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    code, printed, _ = explain("picture.png", "--out", str(out), "--json")
    assert code == 0
    (found,) = json.loads(printed)["explanations"]
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


def test_test_images_are_explained_for_a_class(explain: Explain) -> None:
    options = ("--data", "data.npz", "--test-index", "2", "--test-index", "0")
    code, printed, _ = explain(*options, "--method", "gradcam", "--target", "down", "--json")
    assert code == 0
    result = json.loads(printed)
    assert result["methods"] == ["gradcam"]
    assert [entry["image"] for entry in result["explanations"]] == ["test image 2", "test image 0"]
    assert [entry["label"] for entry in result["explanations"]] == ["oblique", "across"]
    assert {entry["target"] for entry in result["explanations"]} == {"down"}
    assert result["explanations"][0]["intercept"] is None


def test_people_get_a_table(explain: Explain) -> None:
    code, printed, _ = explain("picture.png", "--method", "contributions")
    assert code == 0
    assert "highest scores" in printed
    assert "picture.png" in printed


def test_faithfulness_is_a_table_with_a_floor(explain: Explain) -> None:
    options = ("--data", "data.npz", "--faithfulness", "6", "--method", "contributions")
    code, printed, err = explain(*options)
    assert code == 0
    assert "random" in printed
    assert "faithfulness" in err
    code, printed, _ = explain(*options, "--json")
    table = json.loads(printed)["faithfulness"]
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
def test_wrong_use_says_what_to_do(
    explain: Explain, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, printed, err = explain(*arguments)
    assert (found, printed) == (code, "")
    assert words in err


def test_methods_are_those_of_the_library() -> None:
    assert tuple(METHODS) == explain_command.METHODS
    assert set(explained.TITLES) == set(METHODS)
