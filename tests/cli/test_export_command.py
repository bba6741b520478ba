"""`convexcnn export`, on a model that was saved from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import typed
from convexcnn.models import save_model
from small import stripes
from tiny_models import convex, layerwise

IMAGES, LABELS = stripes(60)
NAMES = np.array(["ash", "beech", "cedar"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(convex().fit(IMAGES, NAMES[LABELS]), folder)
    return folder


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_export_writes_a_file_and_says_how_it_was_verified(to, saved, tmp_path) -> None:
    if to == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra onnx is not installed")
    out = tmp_path / "model.file"
    done = typed("export", saved, out, "--to", to, "--json")
    assert done.code == 0
    result = done.json()
    assert result["classes"] == NAMES.tolist()
    assert result["bytes"] == out.stat().st_size
    assert result["verified"]["largest"] < 1e-5
    assert "Verified on" in done.err
    done = typed("export", saved, out, "--to", to)
    assert (done.code, "--overwrite" in done.err) == (1, True)
    done = typed("export", saved, out, "--to", to, "--overwrite")
    assert done.code == 0
    assert done.out.startswith(f"Written: {out}")
    assert "takes float32 n x 1x8x8" in done.out


def test_the_program_labels_as_predict_does(saved, tmp_path) -> None:
    out = tmp_path / "model.pt2"
    typed("export", saved, out, "--to", "torch", "--pixels", "uint8")
    names: dict[str, str] = {"classes.json": ""}
    program = torch.export.load(out, extra_files=names).module()
    labels = np.array(json.loads(names["classes.json"]))
    with torch.no_grad():
        scores, _ = program(torch.from_numpy(IMAGES))
    assert (labels[scores.argmax(1).numpy()] == NAMES[LABELS]).mean() > 0.9


def test_what_cannot_be_exported_is_named(saved, tmp_path) -> None:
    for arguments, message in [
        ([saved, tmp_path / "no" / "x", "--to", "torch"], "there is no folder"),
        ([saved, tmp_path / "x", "--to", "tflite"], "'tflite' is not one of"),
        ([saved, tmp_path / "x"], "Missing option '--to'"),
        ([tmp_path / "none", tmp_path / "x", "--to", "torch"], "there is no such run"),
    ]:
        done = typed("export", *arguments)
        assert done.code in (1, 2)
        assert message in done.err
        assert not (tmp_path / "x").exists()


def test_a_stack_is_exported(tmp_path) -> None:
    model = layerwise(certificates=False).fit(IMAGES, LABELS)
    save_model(model, tmp_path)
    done = typed("export", tmp_path, tmp_path / "x.pt2", "--to", "torch")
    assert (done.code, done.err.startswith("Verified")) == (0, True)
