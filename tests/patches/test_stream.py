"""Streams deliver every image once, scaled, mirrored if asked, in an order that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convexcnn.patches.stream import largest_shift, shifted
from small import generator, stripe_stream

IMAGES, CLASSES = 23, 3


def rows_of(blocks):
    """A stream's blocks, joined: images and targets."""
    images, targets = zip(*blocks, strict=True)
    return torch.cat(images), torch.cat(targets)


def positions(images, everything):
    """The row of each image in ``everything``; every one must be there exactly once."""
    same = (images[:, None] == everything[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1).tolist()


def test_a_block_is_scaled_images_and_one_hot_targets():
    stream = stripe_stream(IMAGES)
    images, targets = stream.block(np.array([5, 0, 7]))
    expected = stream.scaler.transform(stream.images)[[5, 0, 7]]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[stream.labels[[5, 0, 7]]])
    assert images.dtype == targets.dtype == torch.float32


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [2, 3, 10, 23, 46, 1000])
def test_the_order_does_not_depend_on_the_block_size(mirror, size):
    stream = stripe_stream(IMAGES, mirror=mirror)
    blocks = list(stream.blocks(size))
    assert max(len(images) for images, _ in blocks) <= size
    images, targets = rows_of(blocks)
    assert len(images) == len(targets) == len(stream) == IMAGES * (1 + mirror)
    everything, labels = stream.block(slice(None))
    assert torch.equal(images[:: 1 + mirror], everything)
    assert torch.equal(targets[:: 1 + mirror], labels)
    if mirror:
        assert torch.equal(images[1::2], everything.flip(3))
        assert torch.equal(targets[1::2], labels)


def test_a_mirrored_pair_is_never_torn_apart():
    sizes = [len(images) for images, _ in stripe_stream(3, mirror=True).blocks(1)]
    assert sizes == [2, 2, 2]


def test_an_epoch_holds_every_image_once_in_an_order_from_the_generator():
    stream = stripe_stream(IMAGES)
    everything, labels = stream.block(slice(None))
    batches = list(stream.shuffled(10, generator(3)))
    assert [len(images) for images, _ in batches] == [10, 10, 3]
    images, targets = rows_of(batches)
    order = positions(images, everything)
    assert sorted(order) == list(range(IMAGES))
    assert order != sorted(order)
    assert torch.equal(targets, labels[order])
    again, _ = rows_of(stream.shuffled(10, generator(3)))
    assert torch.equal(again, images)
    other, _ = rows_of(stream.shuffled(10, generator(4)))
    assert not torch.equal(other, images)


def test_every_image_of_a_shuffled_batch_is_mirrored_or_not_by_itself():
    stream = stripe_stream(IMAGES, mirror=True)
    everything, _ = stream.block(slice(None))
    pairs = torch.cat([everything, everything.flip(3)])
    source, flipped = generator(0), []
    for _ in range(20):
        for images, _ in stream.shuffled(10, source):
            flipped.append([position >= IMAGES for position in positions(images, pairs)])
    assert 0.4 < sum(map(sum, flipped)) / (20 * IMAGES) < 0.6
    assert sum(0 < sum(batch) < len(batch) for batch in flipped) > 40


@pytest.mark.parametrize("rank", range(3))
def test_shares_of_a_mini_batch_are_parts_of_the_whole_in_the_same_views(rank):
    stream = replace(stripe_stream(IMAGES, mirror=True), shifts=1)

    def third(images):
        return slice(rank * images // 3, (rank + 1) * images // 3)

    shared = stream.shuffled(10, generator(3), share=third)
    for (images, targets), (own, labels) in zip(
        stream.shuffled(10, generator(3)), shared, strict=True
    ):
        assert torch.equal(images[third(len(images))], own)
        assert torch.equal(targets[third(len(images))], labels)


def test_pieces_of_a_mini_batch_are_the_whole_of_it_in_the_same_views():
    stream = replace(stripe_stream(IMAGES, mirror=True), shifts=1)
    whole, in_pieces = generator(3), generator(3)
    batches = stream.shuffled(10, whole)
    for size, parts in stream.mini_batches(10, in_pieces, at_once=4):
        (images, targets), parts = next(batches), list(parts)
        assert all(len(part) <= 4 for part, _ in parts)
        assert size == len(images)
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert torch.equal(torch.cat([labels for _, labels in parts]), targets)
    assert torch.equal(whole.get_state(), in_pieces.get_state())


def test_a_subset_keeps_the_settings_of_its_stream():
    stream = stripe_stream(IMAGES, mirror=True)
    part = stream.subset(np.array([4, 1]))
    assert (len(part), part.mirror, part.n_classes) == (4, True, CLASSES)
    assert part.scaler is stream.scaler
    np.testing.assert_array_equal(part.images, stream.images[[4, 1]])
    np.testing.assert_array_equal(part.labels, stream.labels[[4, 1]])


def test_mirroring_can_be_left_out():
    stream = stripe_stream(IMAGES, mirror=True)
    plain = stream.plain()
    assert (len(stream), len(plain)) == (2 * IMAGES, IMAGES)
    assert torch.equal(rows_of(plain.blocks(7))[0], stream.block(slice(None))[0])


def test_shifted_views_follow_in_the_same_order_and_stay_with_their_images():
    stream = stripe_stream(30, mirror=True)
    stream = replace(stream, shifts=2)
    assert stream.views == 6
    assert len(stream) == 180
    everything = torch.cat([images for images, _ in stream.blocks(1000)])
    assert torch.equal(torch.cat([images for images, _ in stream.blocks(7)]), everything)
    by_image = everything.view(30, 6, *everything.shape[1:])
    for shift in range(3):
        assert torch.equal(by_image[:, 2 * shift].flip(3), by_image[:, 2 * shift + 1])
    rows = np.array([3, 7, 29])
    part = torch.cat([images for images, _ in stream.subset(rows).blocks(100)])
    assert torch.equal(part.view(3, 6, *part.shape[1:]), by_image[rows])
    nested = stream.subset(np.arange(5, 30)).subset(np.array([0, 24]))
    found = torch.cat([images for images, _ in nested.blocks(100)])
    assert torch.equal(found.view(2, 6, *found.shape[1:]), by_image[[5, 29]])
    assert len(stream.plain()) == 30


def test_pairs_are_images_and_mirror_images_or_else_shifted_ones():
    stream = replace(stripe_stream(30), shifts=1)
    assert stream.paired() is stream
    both = replace(stream, mirror=True)
    pairs = rows_of(both.paired().blocks(7))[0].view(30, 2, 1, 8, 8)
    assert torch.equal(pairs, rows_of(both.blocks(7))[0].view(30, 4, 1, 8, 8)[:, :2])
    assert torch.equal(pairs[:, 0].flip(3), pairs[:, 1])


def test_an_image_is_shifted_by_its_offset():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    (found,) = shifted(image, torch.tensor([[1, -2]]))[0]
    assert found.tolist() == [[0, 0, 0, 0], [2, 3, 0, 0], [6, 7, 0, 0]]
    assert torch.equal(shifted(image, torch.tensor([[0, 0]])), image)


def test_random_shifts_differ_from_batch_to_batch():
    stream = replace(stripe_stream(30), shifts=1)
    epochs = [torch.cat([b for b, _ in stream.shuffled(10, generator(s))]) for s in (1, 1, 2)]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0].sum(), epochs[2].sum())


@pytest.mark.parametrize(("side", "largest"), [(1, 0), (2, 0), (3, 1), (16, 1), (32, 2), (64, 4)])
def test_shifts_are_of_a_sixteenth_and_leave_something_of_tiny_images(side, largest):
    assert largest_shift(1 / 16, (5, 3, side, side)) == largest
