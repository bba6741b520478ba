"""Stacks: exact within a block, pulled back to pixels, by gradients, and by their scores alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.explain import (
    METHODS,
    block_head,
    exact_contributions,
    faithfulness_table,
    gate_activity,
    grad_cam,
    gradient_times_input,
    maximise_input,
    occlusion_map,
    spread_through,
    weighted_heads,
)
from convexcnn.explain.randomisation import shuffled_copies
from tiny_models import layerwise

BLOCKS = (1, 2, 3)


@pytest.fixture(scope="module")
def stack(data):
    """Three blocks whose heads predict together."""
    model = layerwise().fit(*data)
    model.head_weights_ = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    return model


@pytest.mark.parametrize("block", BLOCKS)
def test_contributions_add_up_to_the_score_of_a_blocks_head(stack, data, block) -> None:
    images = data[0]
    head = block_head(stack, block)
    expected = stack.block_scores(images)[block - 1]
    np.testing.assert_allclose(head.scores(images), expected, atol=1e-6)
    parts = exact_contributions(head, images)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(parts.scores, expected, rtol=0, atol=tolerance)
    by_gate = parts.gates.sum(2) + parts.intercept
    np.testing.assert_allclose(by_gate, expected, rtol=0, atol=tolerance)
    assert parts.patches.shape[2:] == stack.blocks_[block - 1].geometry.grid


@pytest.mark.parametrize("block", BLOCKS)
def test_activity_is_that_of_the_gates_of_the_head(stack, data, block) -> None:
    """From the module of the stack, one way."""
    *_, (_, _, on) = block_head(stack, block).to_torch().steps(torch.from_numpy(data[0]))
    activity = gate_activity(block_head(stack, block), data[0])
    np.testing.assert_allclose(activity, on.mean((0, 2, 3)), atol=5e-3)


def test_activity_of_several_heads_is_refused(stack, data) -> None:
    with pytest.raises(SettingError, match="choose one with block_head"):
        gate_activity(stack, data[0][:2])


@pytest.mark.parametrize("block", BLOCKS)
def test_spreading_through_the_blocks_keeps_sums(stack, block) -> None:
    rows, columns = stack.blocks_[block - 1].geometry.grid
    maps = np.random.default_rng(0).normal(size=(2, rows, columns)).astype(np.float32)
    pixels = spread_through(stack, block, maps)
    assert pixels.shape == (2, 9, 9)
    np.testing.assert_allclose(pixels.sum((1, 2)), maps.sum((1, 2)), rtol=1e-5, atol=1e-5)


def test_a_patch_is_spread_over_its_receptive_field_only(stack) -> None:
    """Block 2 sees 3x3 patches of a 5x5 grid, each of 3x3 pixels at stride 2, padded by one."""
    maps = np.zeros((1, 5, 5), np.float32)
    maps[0, 0, 0] = 1
    reached = spread_through(stack, 2, maps)[0] > 0
    assert reached[:4, :4].all()
    assert not reached[4:].any()
    assert not reached[:, 4:].any()


def test_an_odd_line_that_averages_cut_gets_nothing(stack) -> None:
    """Block 2 has 5x5 patches, averaged to 2x2 maps for block 3: its last line is not used."""
    rows, columns = stack.blocks_[2].geometry.grid
    pixels = spread_through(stack, 3, np.ones((1, rows, columns), np.float32))
    np.testing.assert_allclose(pixels.sum(), rows * columns, rtol=1e-6)


def test_maps_of_the_prediction_are_the_heads_by_weight(stack, data) -> None:
    images, targets = data[0][:4], np.array([0, 1, 2, 0])
    intercept = sum(
        weight * exact_contributions(head, images).intercept[targets]
        for weight, head in weighted_heads(stack)
    )
    total = METHODS["contributions"](stack, images, targets).sum((1, 2)) + intercept
    scores = stack.scores(images)[np.arange(4), targets]
    np.testing.assert_allclose(total, scores, rtol=0, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [None, 1, 3])
def test_every_method_takes_a_stack_and_any_of_its_heads(stack, data, method, block) -> None:
    model = stack if block is None else block_head(stack, block)
    maps = METHODS[method](model, data[0][:3], np.array([0, 1, 2]))
    assert maps.shape == (3, 9, 9)
    assert np.isfinite(maps).all()
    assert np.abs(maps).sum((1, 2)).all()


@pytest.mark.parametrize("block", BLOCKS)
def test_grad_cam_is_that_of_the_blocks_own_gated_coordinates(stack, data, block) -> None:
    """By autograd: A = 1[gate] x of every gate and coordinate, in double precision, one way."""
    stack = copy.copy(stack)
    stack.trained_parameters_ = stack.trained_parameters_ | {"augment": "none"}
    images = torch.from_numpy(data[0][:3]).double()
    network = block_head(stack, block).to_torch().double()
    *_, (last, patches, on) = network.steps(images)
    gated = (on[:, :, None] * patches[:, None]).detach().requires_grad_()
    pooled = (
        torch.einsum(
            "ngdcq->ncgd", torch.nn.functional.pad(gated.flatten(3), (0, 1))[..., last.head.order]
        )
        / last.head.sizes[:, None, None]
    )
    scores = last.head.linear(pooled.flatten(1))
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), gated)
    expected = (gradient.mean((3, 4), keepdim=True) * gated).sum((1, 2)).detach().numpy()
    found = grad_cam(block_head(stack, block), data[0][:3], 1)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_grad_cam_takes_any_layer_of_a_stack(stack, data) -> None:
    module = stack.to_torch()
    found = grad_cam(stack, data[0][:2], 0, layer="blocks.1.maps")
    np.testing.assert_allclose(found, grad_cam(module, data[0][:2], 0, layer="blocks.1.maps"))
    assert found.shape[1:] == stack.blocks_[2].geometry.image_shape[1:]


@pytest.mark.parametrize("layer", ["blocks.0.maps", "blocks.1.maps"])
def test_grad_cam_of_a_layer_averages_mirror_images_as_the_scores_do(stack, data, layer) -> None:
    one_way = copy.copy(stack)
    one_way.trained_parameters_ = stack.trained_parameters_ | {"augment": "none"}
    maps, mirrored = (
        grad_cam(one_way, images, [0, 1, 2], layer=layer)
        for images in (data[0][:3], data[0][:3, :, :, ::-1])
    )
    expected = (maps + mirrored[:, :, ::-1]) / 2
    found = grad_cam(stack, data[0][:3], [0, 1, 2], layer=layer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(maps - expected).max() > 0.1 * np.abs(expected).max()


def test_gradient_times_input_adds_up(stack, data) -> None:
    images = data[0][:4]
    piece = gradient_times_input(stack, images, 1)
    total = piece.pixels.sum((1, 2, 3)) + piece.constant
    np.testing.assert_allclose(total, stack.scores(images)[:, 1], atol=1e-4)
    assert piece.pixels.any()


def test_occlusion_asks_a_stack_for_its_scores(stack, data) -> None:
    images = data[0][:2]
    found = occlusion_map(stack, images, [0, 1], window=4, stride=4)
    colour = np.asarray(stack.scaler_.mean)[:, None, None]
    by_scores = occlusion_map(stack.scores, images, [0, 1], window=4, stride=4, fill=colour)
    np.testing.assert_allclose(found, by_scores, atol=1e-4)
    assert found.any()


def test_ascent_climbs_on_the_pixels_of_a_stack(stack) -> None:
    found = maximise_input(stack, 1, starts=2, steps=20)
    assert (found.values > found.start_values).all()
    assert found.images.min() >= 0
    assert found.images.max() <= 255


def test_the_faithfulness_table_takes_a_stack(stack, data) -> None:
    methods = {name: METHODS[name] for name in ("contributions", "gradient")}
    table = faithfulness_table(stack, data[0][:6], methods=methods, steps=4)
    assert [row.method for row in table] == ["contributions", "gradient", "random"]
    assert set(table[0].randomised) == {"heads", "blocks"}
    assert np.isfinite([row.deletion for row in table]).all()


def test_shuffling_leaves_the_stack_as_it_was(stack, data) -> None:
    before = stack.scores(data[0])
    others = [other.scores(data[0]) for _, other in shuffled_copies(stack)]
    np.testing.assert_array_equal(stack.scores(data[0]), before)
    assert len(others) == 2
    assert all(np.abs(other - before).max() > 1e-3 for other in others)


def test_several_heads_have_no_single_block(stack, data) -> None:
    with pytest.raises(SettingError, match=r"blocks 1, 2, 3 together; choose one with block_head"):
        exact_contributions(stack, data[0][:2])


@pytest.mark.parametrize("block", [0, 4])
def test_a_block_that_is_not_there_is_named(stack, block) -> None:
    with pytest.raises(SettingError, match="blocks 1 to 3"):
        block_head(stack, block)
