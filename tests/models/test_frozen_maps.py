"""Maps between blocks: the same in memory and in a file, mirror images with their own."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest
import torch

from convexcnn.data import ImageScaler
from convexcnn.data.stored_rows import StoredRows
from convexcnn.errors import RunError
from convexcnn.models.frozen_maps import freeze_maps, map_bytes, standardise
from small import generator, stripe_stream

SHAPE = (3, 2, 3)
KEPT = np.array([0, 2, 3, 7, 30])


def maps_of(images: torch.Tensor) -> torch.Tensor:
    """Maps that differ between an image and its mirror image in more than their order."""
    mixture = torch.randn(64, 18, generator=generator())
    return (images.flatten(1) @ mixture).view(-1, *SHAPE).half()


def freeze(mirror: bool = True, in_memory: bool = True, scaler=KEPT):
    stream = stripe_stream(40, mirror=mirror)
    return stream, freeze_maps(stream, SHAPE, maps_of, scaler, in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_stream_of_maps_has_those_of_the_mirror_images(in_memory):
    stream, maps = freeze(in_memory=in_memory)
    assert len(maps) == 80
    (images, targets), (found, found_targets) = next(stream.blocks(80)), next(maps.blocks(80))
    expected = standardise(maps_of(images), maps.scaler)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)  # products of other sizes
    assert torch.equal(found_targets, targets)
    plain, _ = next(maps.plain().blocks(40))
    assert torch.equal(plain, found[::2])
    assert not torch.allclose(found[1::2], found[::2].flip(3), atol=0.1)


def test_blocks_do_not_depend_on_their_size_and_shuffling_mirrors_whole_batches():
    _, maps = freeze()
    everything = torch.cat([block for block, _ in maps.blocks(1000)])
    assert torch.equal(torch.cat([block for block, _ in maps.blocks(7)]), everything)
    batches = list(maps.shuffled(10, generator(3)))
    assert sum(len(images) for images, _ in batches) == 40
    rows = {row.numpy().tobytes() for row in everything}
    assert all(image.numpy().tobytes() in rows for images, _ in batches for image in images)


def test_channels_are_standardised_on_the_training_images():
    _, maps = freeze()
    images, _ = next(maps.subset(KEPT).blocks(10))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        images.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0
    )
    raw = torch.from_numpy(maps.images[:])
    assert torch.equal(maps.block(slice(None))[0], standardise(raw, maps.scaler))


def test_a_given_scaler_is_used_as_it_is():
    scaler = ImageScaler((1.0, 2.0, 3.0), (1.0, 0.5, 2.0))
    assert freeze(scaler=scaler)[1].scaler is scaler


def test_a_channel_that_is_constant_is_only_shifted():
    stream = stripe_stream(10)
    maps = freeze_maps(
        stream,
        (1, 1, 1),
        lambda images: torch.full((len(images), 1, 1, 1), 0.1).half(),
        np.arange(10),
        in_memory=True,
    )
    assert maps.scaler.scale == (1.0,)
    assert not maps.block(slice(None))[0].any()


def test_subsets_of_subsets_read_only_their_rows():
    _, maps = freeze(in_memory=False)
    part = maps.subset(KEPT).subset(slice(1, 3))
    assert len(part) == 4
    assert part.images.source is maps.images.source
    assert torch.equal(part.block(slice(None))[0], maps.block(np.array([2, 3]))[0])
    assert part.labels.tolist() == maps.labels[[2, 3]].tolist()


def test_a_file_of_maps_has_no_name_to_be_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, maps = freeze(in_memory=False)
    assert isinstance(maps.images.source, StoredRows)
    assert not list(tmp_path.iterdir())
    assert np.array_equal(maps.images[:], freeze()[1].images[:])


def test_maps_that_no_disk_holds_are_refused(monkeypatch):
    def full(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"set TMPDIR to a larger disk, raise memory_gb, or lower"):
        freeze(in_memory=False)


def test_a_changed_byte_of_a_map_is_found_out():
    _, maps = freeze(in_memory=False)
    stored = maps.images.source
    os.pwrite(stored.descriptor, b"!", 5 * stored.row_bytes)
    assert len(maps.block(np.arange(5))[0]) == 5
    with pytest.raises(RunError, match=r"maps of a block in .* has changed: row 5"):
        list(maps.blocks(8))


def test_a_disk_that_cannot_be_written_is_named(monkeypatch):
    def broken():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", broken)
    with pytest.raises(RunError, match="No space left on device"):
        freeze(in_memory=False)


def test_bytes_are_two_per_number_and_mirror_images_count():
    assert map_bytes(stripe_stream(40, mirror=True), SHAPE) == 2 * 80 * 18
