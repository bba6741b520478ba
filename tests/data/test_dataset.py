"""What makes a data set sound, and its fingerprint and subsets."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest

from convexcnn.data import ImageDataset, ImageSplit
from convexcnn.errors import DataError, SettingError

GREY = np.arange(12 * 4, dtype=np.uint8).reshape(12, 1, 2, 2)
LABELS = np.repeat(np.arange(3), [6, 4, 2])


def dataset(images=GREY, labels=LABELS, test=None, classes=("a", "b", "c")) -> ImageDataset:
    return ImageDataset("toy", ImageSplit(images, labels), test, classes, "memory")


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (GREY[:, 0], LABELS, r"images have shape \(12, 2, 2\)"),
        (GREY[:, :, :0], LABELS, "at least one pixel"),
        (GREY.astype(np.float64), LABELS, "images are float64"),
        (GREY, LABELS[:5], r"12 images but labels of shape \(5,\)"),
        (GREY, LABELS.astype(np.int32), "labels are int32"),
    ],
)
def test_a_split_of_the_wrong_shape_or_type_is_refused(images, labels, complaint):
    with pytest.raises(DataError, match=complaint):
        ImageSplit(images, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_must_be_finite(value):
    images = GREY.astype(np.float32)
    images[5, 0, 1, 1] = images[7, 0, 0, 0] = value
    with pytest.raises(DataError, match=r"2 of 12 images have NaN or infinite .*first: image 5"):
        ImageSplit(images, LABELS)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label):
    labels = LABELS.copy()
    labels[4] = label
    with pytest.raises(DataError, match=f"training image 4 has label {label}, out of range"):
        dataset(labels=labels)
    with pytest.raises(DataError, match=f"test image 4 has label {label}, out of range"):
        dataset(test=ImageSplit(GREY, labels))


def test_one_class_is_not_a_problem_to_classify():
    with pytest.raises(DataError, match=r"images of one class only \(b\)"):
        dataset(labels=np.ones(12, np.int64))


def test_empty_splits_are_refused():
    nothing = ImageSplit(GREY[:0], LABELS[:0])
    with pytest.raises(DataError, match="no training images"):
        ImageDataset("toy", nothing, None, ("a",), "memory")
    with pytest.raises(DataError, match="empty test split"):
        dataset(test=nothing)


def test_test_images_must_match_training_images():
    with pytest.raises(DataError, match=r"training images of shape \(1, 2, 2\) but test"):
        dataset(test=ImageSplit(np.zeros((12, 1, 4, 4), np.uint8), LABELS))
    with pytest.raises(DataError, match="uint8 training images but float32 test images"):
        dataset(test=ImageSplit(GREY.astype(np.float32), LABELS))


def test_the_fingerprint_does_not_depend_on_machine_or_memory_layout():
    little_endian = b"".join(struct.pack("<q", label) for label in LABELS)
    content = b"uint8 (12, 1, 2, 2)" + bytes(range(48)) + little_endian + b"a\nb\nc"
    expected = hashlib.sha256(content).hexdigest()
    assert dataset().fingerprint() == expected
    assert dataset(images=np.asfortranarray(GREY)).fingerprint() == expected
    assert dataset(test=ImageSplit(GREY, LABELS)).fingerprint() == expected


def test_the_fingerprint_sees_every_change_of_the_training_data():
    other_pixel = GREY.copy()
    other_pixel[11, 0, 1, 1] += 1
    variants = [
        dataset(),
        dataset(images=other_pixel),
        dataset(images=GREY.reshape(12, 1, 1, 4)),
        dataset(images=GREY.astype(np.float32)),
        dataset(labels=LABELS[::-1].copy()),
        dataset(classes=("a", "b", "d")),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)


def test_limit_keeps_proportions_and_the_test_images():
    test = ImageSplit(GREY, LABELS)
    fewer = dataset(test=test).limit(6, seed=1)
    np.testing.assert_array_equal(np.bincount(fewer.train.labels), [3, 2, 1])
    assert fewer.test is test
    rows = fewer.train.images[:, 0, 0, 0] // 4
    np.testing.assert_array_equal(LABELS[rows], fewer.train.labels)
    assert fewer.fingerprint() == dataset(test=test).limit(6, seed=1).fingerprint()
    assert fewer.fingerprint() != dataset(test=test).limit(6, seed=2).fingerprint()


def test_a_limit_above_the_size_keeps_all_and_one_below_the_classes_is_refused():
    whole = dataset()
    assert whole.limit(100) is whole
    with pytest.raises(SettingError, match="limit is 2, but there are 3 classes"):
        whole.limit(2)


def test_the_description_is_json():
    described = json.loads(json.dumps(dataset().describe()))
    assert described.pop("fingerprint") == dataset().fingerprint()
    assert described == {
        "name": "toy",
        "source": "memory",
        "classes": ["a", "b", "c"],
        "image_shape": [1, 2, 2],
        "n_train": 12,
        "n_test": 0,
    }
