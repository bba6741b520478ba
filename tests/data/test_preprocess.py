"""Array layouts and standardisation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from convexcnn.data import ImageScaler, as_images
from convexcnn.errors import DataError, SettingError

RGB = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
GREY = RGB[:, :1]


@pytest.mark.parametrize(
    ("X", "image_shape", "expected"),
    [
        (RGB, None, RGB),
        (RGB.transpose(0, 2, 3, 1), None, RGB),
        (GREY, None, GREY),
        (GREY.transpose(0, 2, 3, 1), None, GREY),
        (GREY[:, 0], None, GREY),
        (RGB.reshape(5, -1), (3, 4, 6), RGB),
        (RGB.transpose(0, 2, 3, 1).reshape(5, -1), (4, 6, 3), RGB),
        (GREY.reshape(5, -1), (4, 6), GREY),
        (RGB, (3, 4, 6), RGB),
        (RGB.transpose(0, 2, 3, 1), (3, 4, 6), RGB),
        (RGB[:, [0, 1, 2, 0]], None, RGB[:, [0, 1, 2, 0]]),
        (RGB.tolist(), None, RGB),
        (RGB.astype(np.int64), None, RGB),
        (GREY > 100, None, (GREY > 100).astype(np.uint8)),
        (torch.from_numpy(RGB), None, RGB),
    ],
)
def test_every_layout_comes_to_channels_first(X, image_shape, expected):
    images = as_images(X, image_shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_float32(dtype):
    images = as_images((RGB / 255).astype(dtype))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, RGB / 255, rtol=1e-3)


def test_whole_numbers_beyond_a_byte_become_float32():
    assert as_images(RGB.astype(np.int64) - 1).dtype == np.float32
    assert as_images(RGB.astype(np.uint16) * 10).dtype == np.float32


def test_channels_first_images_of_three_columns_are_left_alone():
    X = np.zeros((2, 3, 5, 3), np.uint8)
    assert as_images(X) is X or np.shares_memory(as_images(X), X)
    assert as_images(X).shape == (2, 3, 5, 3)


@pytest.mark.parametrize(
    ("X", "image_shape", "complaint"),
    [
        (RGB.reshape(5, -1), None, r"say image_shape=\(channels, height, width\)"),
        (RGB.reshape(5, -1), (3, 4, 5), r"72 numbers per image, but .* has 60"),
        (RGB, (3, 6, 4), r"images of shape \(3, 4, 6\), but image_shape says \(3, 6, 4\)"),
        (np.zeros(5), None, r"X has shape \(5,\)"),
        (np.zeros((2, 3, 4, 5, 6)), None, "give images as"),
        (np.zeros((2, 3, 0, 5)), None, "give images as"),
        ([[[1, 2], [3]]], None, "ragged"),
        (np.array([["a"]]), None, "not numbers"),
        (RGB + 1j, None, "not numbers"),
        (np.array([[None]]), None, "not numbers"),
        (np.where(RGB > 250, np.nan, RGB), None, "NaN or infinite"),
        (np.full((2, 3, 4, 4), 1e300), None, "NaN or infinite"),
    ],
)
def test_what_is_no_image_is_refused(X, image_shape, complaint):
    with pytest.raises(DataError, match=complaint):
        as_images(X, image_shape)


@pytest.mark.parametrize(
    "image_shape",
    [
        (12,),
        (1, 2, 3, 4),
        (0, 4, 6),
        (-3, 4, 6),
        12,
        (),
        "346",
        (3, 4.0, 6),
        (3, 2**30, 2**30),
        (-1, 4),
        (-1, 2**50, 6),
    ],
)
def test_an_impossible_image_shape_is_a_wrong_setting(image_shape):
    with pytest.raises(SettingError, match="must be"):
        as_images(RGB.reshape(5, -1), image_shape)


@pytest.mark.parametrize("images", [RGB, (RGB / 255).astype(np.float32)])
def test_standardised_channels_have_mean_0_and_deviation_1(images):
    many = np.repeat(images, 500, axis=0)
    scaler = ImageScaler.fit(many)
    z = scaler.transform(many)
    assert z.dtype == np.float32
    assert z.flags.c_contiguous
    np.testing.assert_allclose(z.mean(axis=(0, 2, 3), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(axis=(0, 2, 3), dtype=np.float64), 1, rtol=1e-6)
    np.testing.assert_allclose(scaler.mean, many.mean(axis=(0, 2, 3), dtype=np.float64))
    np.testing.assert_allclose(scaler.scale, many.std(axis=(0, 2, 3), dtype=np.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, 255.0, 1e6])
def test_a_constant_channel_becomes_zero(value):
    images = np.full((3, 1, 4, 4), value, np.float32)
    scaler = ImageScaler.fit(images)
    assert scaler.scale == (1.0,)
    np.testing.assert_allclose(scaler.transform(images), 0, atol=1e-7 * max(value, 1))


def test_centred_images_have_no_brightness_of_their_own():
    plain = ImageScaler.fit(RGB).transform(RGB)
    centred = ImageScaler.fit(RGB, centre=True).transform(RGB)
    expected = plain - plain.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(centred, expected, atol=1e-6)
    brighter = (RGB / 2).astype(np.float32)
    scaler = ImageScaler((0.0,) * 3, (50.0,) * 3, centre=True)
    np.testing.assert_allclose(
        scaler.transform(brighter + 40), scaler.transform(brighter), atol=1e-5
    )


@pytest.mark.parametrize("centre", [False, True])
def test_a_scaler_survives_json(centre):
    scaler = ImageScaler.fit(RGB, centre=centre)
    assert ImageScaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mean": [1.0]},
        {"mean": [1.0], "scale": [1.0, 2.0]},
        {"mean": [1.0], "scale": [0.0]},
        {"mean": [float("nan")], "scale": [1.0]},
        {"mean": ["a"], "scale": [1.0]},
        {"mean": [], "scale": []},
        {"mean": None, "scale": None},
    ],
)
def test_a_damaged_scaler_is_refused(fields):
    with pytest.raises(DataError, match="a saved scaler needs"):
        ImageScaler.from_dict(fields)


def test_another_number_of_channels_is_refused():
    with pytest.raises(DataError, match="1 channels, but the model was fitted on 3"):
        ImageScaler.fit(RGB).transform(GREY)


def test_the_number_of_channels_may_be_left_open():
    images = as_images(RGB.reshape(len(RGB), -1), (-1, *as_images(RGB).shape[2:]))
    assert images.shape == as_images(RGB).shape
    assert as_images(np.zeros((4, 2)), (-1, 1, 1)).shape == (4, 2, 1, 1)


@pytest.mark.parametrize(
    ("X", "image_shape", "message"),
    [
        (np.zeros((4, 7)), (-1, 2, 2), r"for flattened images \(n, channels \* 4\)"),
        (np.zeros((4, 1, 2, 2)), (-1, 2, 2), "for flattened images"),
        (np.zeros((4, 4)), (-1, 4), r"or \(-1, height, width\)"),
        (np.zeros((4, 4)), (-1, -2, -2), r"or \(-1, height, width\)"),
    ],
)
def test_channels_that_do_not_fit_are_refused(X, image_shape, message):
    with pytest.raises((DataError, SettingError), match=message):
        as_images(X, image_shape)
