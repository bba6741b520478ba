"""Contributions add up to the scores; their ways back to pixels keep the sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.explain import affine
from convexcnn.explain.affine import gradient_times_input
from convexcnn.explain.block import block_of
from convexcnn.explain.contributions import exact_contributions
from convexcnn.explain.pixels import spread_evenly
from convexcnn.patches.extract import extract_patches
from small import GEOMETRIES
from tiny_models import convex


def scale_of(model, images) -> float:
    return 1e-5 * float(np.abs(model.scores(images)).max())


def test_parts_add_up_to_every_score(model, data) -> None:
    scores = model.scores(data[0])
    parts = exact_contributions(model, data[0])
    np.testing.assert_allclose(parts.scores, scores, rtol=0, atol=scale_of(model, data[0]))
    by_gate = parts.gates.sum(2) + parts.intercept
    np.testing.assert_allclose(by_gate, scores, rtol=0, atol=scale_of(model, data[0]))
    assert parts.patches.shape[2:] == model.geometry().grid


def test_contributions_are_those_of_the_formula(convex_model, data) -> None:
    """Patch by patch, in float64, from gates and filters on pixels."""
    model, geometry = convex_model, convex_model.geometry()
    block = block_of(model)
    scaled = torch.from_numpy(model.scaler_.transform(data[0][:2])).double()
    x = model.transform_.double()(extract_patches(scaled, geometry)).numpy()
    gates, weights = block.gates.double().numpy(), block.weights.double().numpy()
    expected = np.zeros((2, 3, geometry.grid[0] * geometry.grid[1]))
    for cell, members in enumerate(geometry.cell_order.numpy()):
        inside = [patch for patch in members if patch < expected.shape[2]]
        for patch in inside:
            on = x[:, patch] @ gates.T >= 0
            linear = np.einsum("nd,kgd->nkg", x[:, patch], weights[:, cell])
            expected[:, :, patch] += (linear * on[:, None]).sum(2) / len(inside)
    found = exact_contributions(model, data[0][:2]).patches.reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_class_per_image_is_picked(convex_model, data) -> None:
    parts = exact_contributions(convex_model, data[0][:3])
    np.testing.assert_array_equal(parts.of_class([2, 0, 1])[1], parts.patches[1, 0])
    np.testing.assert_array_equal(parts.of_class(1), parts.patches[:, 1])
    best = parts.scores.argmax(1)
    np.testing.assert_array_equal(parts.of_class(None), parts.of_class(best))


@pytest.mark.parametrize("target", [-1, 3, 1.7, [0, 1, 3], [True, False, True]])
def test_a_class_that_is_not_there_is_refused(convex_model, data, target) -> None:
    parts = exact_contributions(convex_model, data[0][:3])
    with pytest.raises(SettingError, match="target"):
        parts.of_class(target)
    with pytest.raises(DataError, match="one for each of the 3 images"):
        parts.of_class([0, 1])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_spreading_keeps_the_sum(name: str) -> None:
    geometry = GEOMETRIES[name]
    maps = np.random.default_rng(0).normal(size=(3, *geometry.grid))
    pixels = spread_evenly(maps, geometry)
    assert pixels.shape == (3, *geometry.image_shape[1:])
    np.testing.assert_allclose(pixels.sum((1, 2)), maps.sum((1, 2)), rtol=1e-4, atol=1e-5)


def test_a_classifier_without_a_block_is_differentiated(
    model, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = gradient_times_input(model, data[0][:2], 0)
    monkeypatch.setattr(affine, "has_block", lambda model: False)
    other = gradient_times_input(model, data[0][:2], 0)
    np.testing.assert_allclose(other.pixels, piece.pixels, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other.constant, piece.constant, rtol=0, atol=1e-4)


def test_pixels_and_constant_add_up_and_are_the_gradient(model, data) -> None:
    piece = gradient_times_input(model, data[0][:5], 1)
    total = piece.pixels.sum((1, 2, 3)) + piece.constant
    np.testing.assert_allclose(total, model.scores(data[0][:5])[:, 1], rtol=0, atol=1e-4)
    colour = np.array(model.scaler_.mean)[:, None, None]
    by_autograd = gradient_times_input(model.to_torch(), data[0][:5], 1, baseline=colour)
    limit = 1e-5 * np.abs(by_autograd.pixels).max()
    np.testing.assert_allclose(piece.pixels, by_autograd.pixels, rtol=0, atol=limit)


def test_the_constant_is_the_affine_piece_at_the_baseline(convex_model, data) -> None:
    """Evaluated on its own, with the gates of the image held while it turns into the baseline."""
    network = convex_model.to_torch().double()
    features, image = network.features, torch.from_numpy(data[0][:1]).double()
    with torch.no_grad():
        x = features.coordinates(network.scale(image))
        on = (features.gates(x) >= 0).double()
        start = torch.tensor(convex_model.scaler_.mean).double()[None, :, None, None]
        x0 = features.coordinates(network.scale(start.expand(image.shape)))
        held = network[2:]((on[:, :, None] * x0[:, None]).flatten(1, 2))
    piece = gradient_times_input(convex_model, data[0][:1], 2)
    assert piece.constant[0] == pytest.approx(float(held[0, 2]), abs=1e-5)


def test_models_and_images_that_do_not_fit_are_refused(convex_model, data) -> None:
    with pytest.raises(SettingError, match="give a fitted ConvexConvClassifier"):
        exact_contributions(convex_model.to_torch(), data[0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="trained on"):
        exact_contributions(convex_model, data[0][:, :, :8])


def test_a_model_without_neurons_gives_every_pixel_nothing(data) -> None:
    images, labels = data
    relu = {"formulation": "relu", "regulariser": "group", "solver": "cone-columns", "n_gates": 2}
    model = convex(**relu, betas=10.0, whiten=3).fit(images, labels)
    assert not model.coef_.any()
    parts = exact_contributions(model, images[:3])
    assert not parts.patches.any()
    np.testing.assert_allclose(parts.scores, model.scores(images[:3]), atol=1e-6)
