"""Neurons that are learned for the blocks after them, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.models import Block
from convexcnn.models.lookahead_network import (
    WIDTHS,
    LookaheadNetwork,
    further_layers,
    network_of,
)
from convexcnn.models.neuron_network import NeuronDescent
from convexcnn.patches.whiten import fit_triangular_whitening
from small import generator, stripe_stream, stripes
from tiny_models import layerwise as stack

STREAM = stripe_stream(120)
DOWNSAMPLINGS = ("none", "average", "max", "space-to-depth")


def make(last: bool = False, **settings):
    block = Block(**{"n_gates": 6, "gates": "lookahead", **settings})
    geometry = block.geometry(STREAM.images.shape[1:])
    images, _ = STREAM.block(slice(None))
    transform = fit_triangular_whitening(images, geometry)
    return network_of(block, geometry, transform, STREAM.n_classes, generator(), last=last)


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("downsample", DOWNSAMPLINGS)
def test_both_heads_learn_and_all_filters_keep_unit_norm(downsample, lookahead):
    network = make(downsample=downsample, lookahead=lookahead)
    assert len(network.further) == lookahead
    images, targets = STREAM.block(slice(None))
    before = [rows.detach().clone() for rows in network.unit_rows]
    NeuronDescent(network, STREAM, generator()).run(60)
    with torch.no_grad():
        scores = network.both_scores(images)
    for part in scores:
        assert (part.argmax(1) == targets.argmax(1)).double().mean() > 0.9
    for old, rows in zip(before, network.unit_rows, strict=True):
        assert not torch.allclose(old, rows)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_its_own_scores_are_those_of_a_network_with_one_hidden_layer():
    network = make()
    images, _ = STREAM.block(slice(None))
    NeuronDescent(network, STREAM, generator()).run(5)
    with torch.no_grad():
        own, _ = network.both_scores(images)
        torch.testing.assert_close(own, network.scores(images), atol=1e-4, rtol=1e-4)


def test_the_further_head_moves_the_neurons():
    network = make()
    images, targets = STREAM.block(slice(None))
    network.train_once([(images, targets)], len(images))  # heads are zero before it
    with torch.enable_grad():
        _, further = network.both_scores(images)
        loss = torch.nn.functional.cross_entropy(further, targets)
    (gradient,) = torch.autograd.grad(loss, network.directions)
    assert gradient.norm() > 1e-4


def test_large_maps_are_halved_before_the_second_further_convolution():
    block = Block(n_gates=6, gates="lookahead", lookahead=2)
    for side, second in ((16, 8), (9, 4), (8, 4), (7, 7), (1, 1)):
        block = replace(block, pooling=min(2, side))
        layers = further_layers(block, block.geometry((3, side, side)))
        shapes = [geometry.image_shape for geometry, _ in layers]
        assert shapes == [(6, side, side), (WIDTHS[0], second, second)]


def test_the_last_block_has_nothing_to_look_to():
    assert not isinstance(make(last=True), LookaheadNetwork)
    assert not isinstance(make(gates="sgd"), LookaheadNetwork)


def test_heads_on_patches_have_other_gates():
    with pytest.raises(SettingError, match="gates 'lookahead' is for head neurons; head is"):
        Block(gates="lookahead", head="patches")


def test_a_stack_of_them_ends_at_optima_and_gives_the_same_bits():
    blocks = (Block(stride=2, n_gates=6, epochs=6, gates="lookahead"), Block(n_gates=8, epochs=6))
    images, labels = stripes(90, channels=2)
    first, second = (
        stack(blocks=blocks, augment="flip+crop").fit(images, labels) for _ in range(2)
    )
    assert all(found.relative_gap < 1e-3 for found in first.certificates_)
    for one, other in zip(first.blocks_, second.blocks_, strict=True):
        assert torch.equal(one.filters, other.filters)
        assert torch.equal(one.weights, other.weights)


def test_a_single_image_of_a_single_pixel_is_no_mini_batch_too_few():
    images, labels = stripes(257 + 30)  # 257 are kept: the last mini-batch of an epoch is one image
    pixel = Block(filter_size=1, padding=0, n_gates=6, gates="lookahead", pooling=1, epochs=2)
    model = stack(blocks=[pixel, pixel], augment="none", image_shape=(-1, 1, 1))
    model.fit(images[:, 0, :3, :3].reshape(len(images), -1), labels)
    assert len(model.blocks_) == 2
