"""What descent sees: maps of images that were augmented anew, not stored views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convexcnn.models.block_training import BlockTask
from convexcnn.models.frozen_maps import MapStream
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.stack_settings import Block
from convexcnn.models.stack_training import freeze
from small import generator, stripes
from tiny_models import TINY_BLOCKS, TINY_NEURONS
from tiny_models import layerwise as stack

IMAGES, LABELS = stripes(60, channels=2)


@pytest.fixture(scope="module", params=[TINY_NEURONS, TINY_BLOCKS], ids=["neurons", "patches"])
def model(request):
    """A trained stack; not to be changed."""
    return stack(blocks=request.param, augment="flip+crop").fit(IMAGES, LABELS)


def task_of(model, **changes) -> BlockTask:
    """The training of its second block, as the stack began it."""
    pixels = model.training_stream(IMAGES, LABELS)
    split, first = model._held_out(pixels), model.blocks_[0]
    memory = MemoryPlan.of(None, IMAGES)
    maps = freeze(first, pixels.paired(), split, memory)
    return BlockTask(
        Block(),
        replace(pixels, **changes),
        (first,),
        replace(maps, **changes),
        split,
        generator(),
        last=True,
        memory=memory,
        certificate=False,
        steps=lambda default: default,
    )


def test_batches_are_the_maps_of_augmented_training_images(model):
    task = task_of(model)
    fresh = task.descent_stream()
    pixels = task.pixels.subset(task.split.kept)
    batches = zip(fresh.shuffled(16, generator(3)), pixels.shuffled(16, generator(3)), strict=True)
    for (maps, targets), (images, expected) in batches:
        torch.testing.assert_close(maps, model.blocks_[0].next_images(images), atol=2e-3, rtol=2e-3)
        assert torch.equal(targets, expected)


def test_no_two_epochs_are_alike(model):
    fresh, source = task_of(model).descent_stream(), generator(0)
    epochs = [torch.cat([maps for maps, _ in fresh.shuffled(16, source)]) for _ in range(2)]
    every = [{row.numpy().tobytes() for row in epoch} for epoch in epochs]
    assert len(every[0] & every[1]) < len(every[0]) / 2


def test_a_lower_precision_rounds_and_no_more(model):
    task = task_of(model)
    exact = torch.cat([m for m, _ in task.descent_stream().shuffled(99, generator())])
    rough = torch.cat([m for m, _ in task.descent_stream(torch.bfloat16).shuffled(99, generator())])
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_stored_maps_are_enough_where_nothing_is_augmented(model):
    stream = task_of(model, mirror=False, shifts=0).descent_stream()
    assert type(stream) is MapStream


def test_everything_else_is_as_stored(model):
    task = task_of(model)
    fresh, rows = task.descent_stream(), np.arange(5)
    images, targets = fresh.block(rows)
    stored, expected = task.train.block(rows)
    assert torch.equal(images, stored)
    assert torch.equal(targets, expected)
    assert torch.equal(fresh.view(rows, images, 1), task.train.view(rows, images, 1))
    assert (task.pixels.views, fresh.views) == (4, 2)


def test_a_first_block_descends_on_shifted_images_that_its_program_does_not_see(model):
    task = task_of(model)
    first = replace(task, earlier=(), stream=task.pixels.paired())
    assert len(first.train) == 2 * len(task.split.kept)
    fresh = first.descent_stream()
    assert (fresh.mirror, fresh.shifts) == (True, 1)
    np.testing.assert_array_equal(fresh.labels, first.train.labels)
