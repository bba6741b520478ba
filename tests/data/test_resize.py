"""Images in memory to another size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import dataset_from_arrays, limits, read_images
from convexcnn.data.resize import resize_dataset, resize_images
from convexcnn.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (8, 3, 12, 18), dtype=np.uint8)


@pytest.mark.parametrize("size", [6, 5, (6, 9), 24])
def test_images_in_memory_are_resized_as_files_are(tmp_path, size):
    files = [tmp_path / f"{i}.png" for i in range(len(RGB))]
    for path, image in zip(files, RGB, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    np.testing.assert_array_equal(
        resize_images(RGB, size), read_images(files, image_size=size).images
    )


def test_floats_keep_their_range_and_any_number_of_channels():
    images = np.random.default_rng(1).normal(size=(2, 5, 8, 8)).astype(np.float32)
    found = resize_images(images, 4)
    assert found.shape == (2, 5, 4, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(), images.mean(), atol=0.05)


def test_images_of_that_size_are_left_alone():
    assert resize_images(RGB, (12, 18)) is RGB


def test_a_data_set_is_resized_in_both_splits():
    dataset = resize_dataset(dataset_from_arrays(RGB, np.arange(8) % 2), 5)
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (3, 5, 5)


def test_what_does_not_fit_in_memory_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 10**6)
    with pytest.raises(DataError, match="8 resized images"):
        resize_images(RGB, 1000)
