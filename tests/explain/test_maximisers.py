"""What blocks like best: values are those of the pictures kept, filters are looked at in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convexcnn.explain import block_head
from convexcnn.explain.ascent_cost import _costs, affordable_classes, images_at_once
from convexcnn.explain.block import block_of
from convexcnn.explain.maximisers import FilterUnits, maximise_blocks
from convexcnn.models import Block
from tiny_models import layerwise

SETTINGS = {"classes": 2, "filters": 2, "starts": 2, "steps": 12}


@pytest.fixture(scope="module")
def stack(data):
    """Three blocks whose heads predict together."""
    model = layerwise().fit(*data)
    model.head_weights_ = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    return model


@pytest.fixture(scope="module")
def found(stack):
    return maximise_blocks(stack, **SETTINGS)


def test_every_block_has_its_pictures(found) -> None:
    assert [block.class_images.shape for block in found] == [(2, 3, 9, 9)] * 3
    assert [block.filter_images.shape for block in found] == [(2, m, 3, 9, 9) for m in (0, 2, 2)]
    assert [block.filter_values.shape for block in found] == [(2, m, 2) for m in (0, 2, 2)]
    assert all(block.class_images.dtype == np.uint8 for block in found)


def test_class_values_are_scores_of_the_pictures(stack, found) -> None:
    for number, block in enumerate(found, 1):
        scores = block_head(stack, number).scores(block.class_images)
        best = block.class_values.max(1)
        np.testing.assert_allclose(scores[[0, 1], [0, 1]], best, atol=1e-3 * np.abs(best).max())


def test_ascent_beats_every_photograph(stack, data, found) -> None:
    for block, scores in zip(found, stack.block_scores(data[0]), strict=True):
        assert (block.class_values.max(1) > scores[:, :2].max(0)).all()


def test_filter_values_are_responses_of_the_pictures(stack, found) -> None:
    head = block_head(stack, 2)
    units = FilterUnits.strongest(block_of(head), 2, 2)
    images = torch.from_numpy(found[1].filter_images.reshape(-1, 3, 9, 9))
    with torch.no_grad():
        *_, (_, patches, _) = head.to_torch().steps(images)
    best = np.nanmax(found[1].filter_values, 2).flatten()
    np.testing.assert_allclose(units.responses(patches, 1).numpy(), best, rtol=1e-4)
    assert (best > 0).all()


def test_filters_are_the_strongest_of_their_class(stack, found) -> None:
    weights = stack.blocks_[1].weights[:2]
    strength = weights.norm(dim=3).flatten(1)
    expected = strength.sort(dim=1, descending=True).indices[:, :2] % weights.shape[2]
    np.testing.assert_array_equal(found[1].filter_gates, expected)


def test_a_filter_opposed_to_its_gate_comes_last(stack) -> None:
    """Behind its gate x . v is negative wherever the gate is open."""
    block = block_of(block_head(stack, 2))
    strongest = FilterUnits.strongest(block, 1, 1).names[0, 0]
    weights = block.weights.clone()
    weights[0, :, strongest] = -1e3 * block.gates[strongest]
    block = replace(block, weights=weights)
    assert FilterUnits.strongest(block, 1, 1).names[0, 0] != strongest


def test_boxes_hold_what_changes_a_response(stack, found) -> None:
    """Outside of its box a picture may change without any effect."""
    head = block_head(stack, 2)
    units = FilterUnits.strongest(block_of(head), 2, 2)
    for row, (top, left, bottom, right) in enumerate(found[1].filter_boxes.reshape(-1, 4)):
        image = torch.from_numpy(found[1].filter_images.reshape(-1, 3, 9, 9)[row : row + 1]).float()
        other = torch.full_like(image, 17.0)
        other[..., top:bottom, left:right] = image[..., top:bottom, left:right]
        network = head.to_torch()
        network.scale.centre = False  # centring looks at all pixels
        responses = []
        for picture in (image, other):
            with torch.no_grad():
                *_, (_, patches, _) = network.steps(picture)
            responses.append(patches.flatten(2)[0, :, units.patches[row]])
        torch.testing.assert_close(*responses)


def test_a_two_layer_classifier_is_one_block(convex_model) -> None:
    told: list[tuple[int, int]] = []
    (block,) = maximise_blocks(
        convex_model, steps=12, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(1, 1)]
    scores = convex_model.scores(block.class_images).diagonal()
    best = block.class_values.max(1)
    np.testing.assert_allclose(scores, best, atol=1e-3 * np.abs(best).max())


def test_batches_of_any_size_climb_alike(stack, found, monkeypatch) -> None:
    monkeypatch.setattr("convexcnn.explain.ascent_cost.MEMORY", 1.0)
    assert images_at_once(stack) == 1
    for one, all_at_once in zip(maximise_blocks(stack, **SETTINGS), found, strict=True):
        np.testing.assert_allclose(one.class_values, all_at_once.class_values, rtol=0.05)
        np.testing.assert_array_equal(one.filter_gates, all_at_once.filter_gates)
        assert one.filter_images.shape == all_at_once.filter_images.shape


def test_large_models_are_climbed_for_fewer_classes(stack, monkeypatch) -> None:
    arguments = {"classes": 10, "filters": 2, "starts": 2, "steps": 20}
    assert affordable_classes(stack, **arguments) == 3
    work = sum((1 + 2 * (n > 0)) * cost for n, (cost, _) in enumerate(_costs(stack)))
    monkeypatch.setattr("convexcnn.explain.ascent_cost.WORK", 3 * 22 * 2 * work * 2.5)
    assert affordable_classes(stack, **arguments) == 2
    monkeypatch.setattr("convexcnn.explain.ascent_cost.WORK", 0.0)
    assert [len(block.class_images) for block in maximise_blocks(stack, steps=1)] == [1, 1, 1]


def test_bounds_are_kept(convex_model) -> None:
    (block,) = maximise_blocks(convex_model, lower=100.0, upper=140.0, steps=12)
    pictures = 100 + block.class_images.astype(np.float32) * (40 / 255)
    scores = convex_model.scores(pictures)
    best = block.class_values.max(1)
    np.testing.assert_allclose(scores.diagonal(), best, atol=1e-3 * np.abs(best).max())


def test_patches_of_one_pixel_are_not_looked_for_in_the_padding(data) -> None:
    images, labels = data
    pixel = Block(filter_size=1, n_gates=4, gates="gaussian", loss="squared")
    model = layerwise(blocks=[pixel, pixel]).fit(images[:, :, :2, :2], labels)
    for block in maximise_blocks(model, **SETTINGS):
        assert (block.filter_boxes[..., 2:] > block.filter_boxes[..., :2]).all()
        assert np.isfinite(block.class_values).all()
