"""Exported files do what the model does: ONNX, torch and NumPy agree; what cannot be is named."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from convexcnn import reference
from convexcnn.errors import RunError, SettingError
from convexcnn.models import export
from convexcnn.models.export import export_onnx, export_torch
from convexcnn.models.probabilities import probabilities
from small import stripes
from tiny_models import convex, non_convex

NO_ONNX = "needs the packages of the extra onnx (onnx, onnxscript, onnxruntime)"


def need_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NO_ONNX)


def onnx_scores(path: Path, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, chances = session.run(None, {"pixels": pixels})
    return scores, chances


def reference_scores(model, images: np.ndarray) -> np.ndarray:
    """Scores of a gated model in float64, by the reference's loops."""
    mean, scale = (np.reshape(x, (-1, 1, 1)) for x in (model.scaler_.mean, model.scaler_.scale))
    scaled = (images - mean) / scale
    scaled -= scaled.mean((1, 2, 3), keepdims=True)
    transform = model.transform_.double()
    raw = reference.patches(scaled, model.filter_size, model.stride, model.padding)
    x = reference.coordinates(
        raw, transform.mean.numpy(), transform.projection.numpy(), transform.constant
    )
    phi = reference.gated_features(x, model.gates_.double().numpy(), model.pooling)
    return phi.reshape(len(phi), -1) @ model.coef_.flatten(1).T.numpy() + model.intercept_.numpy()


def test_onnx_torch_and_numpy_agree_on_a_thousand_images(tmp_path) -> None:
    need_onnx()
    images, labels = stripes(1000, size=8, channels=2, seed=5)
    model = convex().fit(images[:60], labels[:60])
    checked = export_onnx(model, tmp_path / "model.onnx")
    assert checked.images > 50
    assert checked.largest < 1e-5
    pixels = images.astype(np.float32)
    by_onnx, chances = onnx_scores(tmp_path / "model.onnx", pixels)
    with torch.no_grad():
        by_torch = model.to_torch()(torch.from_numpy(images)).numpy()
    by_numpy = reference_scores(model, images)
    bound = 1e-5 * np.abs(by_numpy).max()
    np.testing.assert_allclose(by_onnx, by_numpy, rtol=0, atol=bound)
    np.testing.assert_allclose(by_torch, by_numpy, rtol=0, atol=bound)
    np.testing.assert_allclose(by_onnx, model.scores(images), rtol=0, atol=bound)
    expected = probabilities(model.scores(images), model.temperature_)
    np.testing.assert_allclose(chances, expected, atol=1e-4)


ARRANGEMENTS = {
    "raw pixels": (convex, {"whiten": None}, "uint8"),
    "not centred": (convex, {"centre": False}, "float32"),
    "cells that overlap": (convex, {"stride": 1, "filter_size": 4}, "uint8"),
    "padding and one cell": (convex, {"padding": 1, "pooling": 1}, "float32"),
    "non-convex": (non_convex, {"stride": 1}, "float32"),
}


@pytest.mark.parametrize(("maker", "settings", "pixels"), ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_every_arrangement_is_exported_to_onnx(maker, settings, pixels, tmp_path) -> None:
    need_onnx()
    images, labels = stripes(48, size=9, channels=3)
    model = maker(**settings).fit(images, labels)
    export_onnx(model, tmp_path / "model.onnx", pixels=pixels)
    for n in (1, 48):
        scores, _ = onnx_scores(tmp_path / "model.onnx", images[:n].astype(pixels))
        bound = 1e-5 * np.abs(model.scores(images)).max()
        np.testing.assert_allclose(scores, model.scores(images[:n]), rtol=0, atol=bound)


def test_class_names_travel_with_the_file(data, tmp_path) -> None:
    need_onnx()
    import onnx

    images, labels = data
    model = convex().fit(images, np.array(["ash", "beech", "cedar"])[labels])
    export_onnx(model, tmp_path / "model.onnx")
    (classes,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert (classes.key, json.loads(classes.value)) == ("classes", ["ash", "beech", "cedar"])


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_a_torch_program_runs_without_the_library(model, data, pixels, tmp_path) -> None:
    checked = export_torch(model, tmp_path / "model.pt2", pixels=pixels)
    assert 0 <= checked.largest < 1e-5
    run = torch.export.load(tmp_path / "model.pt2").module()
    for n in (1, 60):
        with torch.no_grad():
            scores, chances = run(torch.from_numpy(data[0][:n].astype(pixels)))
        expected = model.scores(data[0][:n])
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(chances.sum(1).numpy(), 1, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_file_that_differs_does_not_appear(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 1e-12)
    with pytest.raises(RunError, match=r"not verified|would be off"):
        export_torch(model, tmp_path / "model.pt2")
    wrong = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(RunError, match="not written, its scores would be off by"):
        monkeypatch.setattr(export, "TOLERANCE", 1e-5)
        images = export._random_pixels(model, 8, "float32")
        export._compare(model.to_torch(), wrong, images, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_the_extra_that_is_missing_is_named(model, missing, tmp_path, monkeypatch) -> None:
    def without(name: str):
        if name == missing:
            raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(RunError, match=rf"needs the package {missing} .*convexcnn\[onnx\]"):
        export_onnx(model, tmp_path / "model.onnx")


def test_what_has_no_plain_network_says_so(make, model, tmp_path) -> None:
    with pytest.raises(NotFittedError):
        export_torch(make(), tmp_path / "model.pt2")
    with pytest.raises(SettingError, match="pixels 'int8' is not known"):
        export_torch(model, tmp_path / "model.pt2", pixels="int8")
    with pytest.raises(RunError, match="cannot be written"):
        export_torch(model, tmp_path / "no-folder" / "model.pt2")


def test_skorch_takes_the_plain_network(data) -> None:
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    images, labels = data
    model = convex().fit(images, labels)
    net = skorch.NeuralNetClassifier(
        model.to_torch(), criterion=torch.nn.CrossEntropyLoss, max_epochs=1, verbose=0
    ).initialize()
    assert (net.predict(images.astype(np.float32)) == model.predict(images)).mean() > 0.98
    net.fit(images.astype(np.float32), labels)


def test_captum_takes_the_plain_network(data) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    images, labels = data
    network = convex().fit(images, labels).to_torch()
    pixels = torch.from_numpy(images[:4]).float().requires_grad_()
    found = attr.InputXGradient(network).attribute(pixels, target=0)
    assert found.shape == pixels.shape
    assert bool(found.any())
