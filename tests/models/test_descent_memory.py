"""Mini-batches of large images come in pieces that fit into memory; others are whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convexcnn.models import Block, LayerwiseConvexCNN
from convexcnn.models import descent_memory as module
from convexcnn.models.descent_memory import (
    DESCENT_BYTES,
    FEWEST,
    bytes_per_image,
    descent_gb,
    images_at_once,
)
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.neuron_network import BATCH, NeuronDescent, NeuronNetwork
from convexcnn.models.stack_settings import plan_geometries, read_blocks
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import fit_triangular_whitening
from small import generator, stripe_stream, stripes

WIDTHS = torch.float32, torch.bfloat16


def planned(name: str, side: int):
    """Blocks, geometries and shape of a preset."""
    shape = 3, side, side
    blocks = read_blocks(name, None, shape)
    return blocks, plan_geometries(blocks, shape), shape


@pytest.mark.parametrize("name", ["small", "vgg11"])
@pytest.mark.parametrize("dtype", WIDTHS)
def test_images_of_cifar_are_seen_256_at_a_time(name, dtype, monkeypatch):
    monkeypatch.setattr(module, "descent_dtype", lambda device: dtype)
    blocks, geometries, shape = planned(name, 32)
    for block, geometry in zip(blocks, geometries, strict=True):
        assert images_at_once(block, geometry, shape, "cpu", last=False) == BATCH


@pytest.mark.parametrize("name", ["small", "vgg11", "imagenet"])
@pytest.mark.parametrize("dtype", WIDTHS)
def test_pieces_of_large_images_stay_within_a_bound(name, dtype, monkeypatch):
    monkeypatch.setattr(module, "descent_dtype", lambda device: dtype)
    blocks, geometries, shape = planned(name, 224)
    first, place = blocks[0], geometries[0]
    at_once = images_at_once(first, place, shape, "cpu", last=False)
    assert FEWEST <= at_once < BATCH
    each = bytes_per_image(first, place, shape, dtype, last=False)
    assert at_once == FEWEST or at_once * each <= DESCENT_BYTES
    whole = descent_gb(blocks, geometries, shape, "cpu", 10**6)
    assert 0.4 < whole < 1e-9 * 3 * DESCENT_BYTES
    assert descent_gb(blocks, geometries, shape, "cpu", 2) < whole / 4


def test_what_mini_batches_take_is_counted():
    blocks, geometries, shape = planned("imagenet", 224)
    images = np.broadcast_to(np.uint8(0), (1000, *shape))
    model = LayerwiseConvexCNN(memory_gb=4.0)
    assert MemoryPlan.of(4.0, images, descent_gb=0.5).usable_gb == pytest.approx(
        MemoryPlan.of(4.0, images).usable_gb - 0.2
    )
    stream = replace(stripe_stream(9), images=images, labels=np.zeros(1000, np.int64))
    taken = descent_gb(blocks, geometries, shape, "cpu", 1000)
    scores = 4 * 1000 * stream.n_classes
    expected = MemoryPlan.of(4.0, images, scores, taken).usable_gb
    assert model.memory_plan(stream, blocks).usable_gb == pytest.approx(expected)


def network(stream) -> NeuronNetwork:
    geometry = PatchGeometry((1, 8, 8), 3, 1, 1, 2)
    transform = fit_triangular_whitening(stream.block(slice(None))[0], geometry)
    return NeuronNetwork(geometry, transform, 5, 3, generator())


def test_gradients_of_pieces_add_up_to_that_of_the_mini_batch():
    stream = stripe_stream(50)
    images, targets = stream.block(slice(None))
    found = []
    for at_once in (50, 17):
        one = network(stream)
        one.head.copy_(torch.randn(one.head.shape, generator=generator()))
        for piece, labels in zip(images.split(at_once), targets.split(at_once), strict=True):
            one.add_gradient(piece, labels, len(piece) / 50)
        found.append(one.directions.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_descent_in_pieces_goes_where_descent_on_whole_mini_batches_goes():
    stream = replace(stripe_stream(60, mirror=True), shifts=1)
    found = []
    for at_once in (60, 25):
        one, events = network(stream), []
        NeuronDescent(one, stream, generator(), at_once).run(20, events.append)
        found.append(events[-1]["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


@pytest.mark.parametrize("gates", ["sgd", "lookahead", "dual"])
def test_a_stack_of_pieces_is_as_good(gates, monkeypatch):
    images, labels = stripes(120)
    blocks = [Block(n_gates=4, gates=gates, epochs=4, pooling=2)] * 2
    monkeypatch.setattr(module, "DESCENT_BYTES", 1)
    sizes = []
    start = NeuronNetwork.add_gradient
    monkeypatch.setattr(
        NeuronNetwork,
        "add_gradient",
        lambda one, images, *rest: sizes.append(len(images)) or start(one, images, *rest),
    )
    model = LayerwiseConvexCNN(blocks=blocks, augment="flip+crop").fit(images, labels)
    assert model.score(images, labels) > 0.6
    assert all(size <= FEWEST for size in sizes)
    assert sizes or gates == "dual"
