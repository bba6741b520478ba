"""Patches are what a convolution sees, and pooling cells are those of adaptive average pooling."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from convexcnn import reference
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.operator import PatchPooling
from small import GEOMETRIES, make_transform, random_images


@pytest.mark.parametrize(
    ("channels", "size", "stride", "padding"),
    [
        case
        for case in product((1, 3), (1, 2, 5), (1, 2, 3), (0, 1, 2))
        if case[3] <= case[1]  # more padding than filter is no use
    ],
)
def test_patches_times_filters_are_a_convolution(channels, size, stride, padding):
    images = random_images(2, (channels, 7, 6))
    weight = random_images(4, (channels, size, size), seed=1)
    geometry = PatchGeometry((channels, 7, 6), size, stride, padding)
    responses = extract_patches(images, geometry) @ weight.flatten(1).T
    expected = conv2d(images, weight, stride=stride, padding=padding)
    assert geometry.grid == expected.shape[2:]
    torch.testing.assert_close(responses, expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_patches_agree_with_the_reference(geometry):
    images = random_images(2, geometry.image_shape)
    expected = reference.patches(images, geometry.filter_size, geometry.stride, geometry.padding)
    patches = extract_patches(images, geometry)
    assert expected.shape[1:3] == geometry.grid
    assert patches.shape == (2, np.prod(geometry.grid), geometry.patch_dim)
    np.testing.assert_array_equal(patches, expected.reshape(patches.shape))


def test_pixels_of_any_type_are_cut_as_they_are():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    patches = extract_patches(images, PatchGeometry((3, 4, 4), 4))
    assert patches.dtype == torch.uint8
    assert torch.equal(patches.flatten(), images.flatten())


@pytest.mark.parametrize(
    ("grid", "cells"),
    [
        (grid, cells)
        for grid in ((1, 1), (3, 3), (4, 6), (5, 7), (7, 2))
        for cells in range(1, min(grid) + 1)
    ],
)
def test_cells_average_like_adaptive_pooling(grid, cells):
    images = random_images(2, (2, *grid))
    geometry = PatchGeometry((2, *grid), 1, cells=cells)
    pooling = PatchPooling(geometry, make_transform("raw", geometry))
    pooled = pooling(images).view(2, cells**2, -1, 2).sum(2)
    expected = adaptive_avg_pool2d(images, cells).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_cells_hold_the_patches_of_the_reference(geometry):
    rows, columns = geometry.grid
    expected = [
        [row * columns + column for row, column in members]
        for members in reference.pooling_cells(rows, columns, geometry.cells)
    ]
    found = [
        [index for index in cell if index < rows * columns] for cell in geometry.cell_order.tolist()
    ]
    assert found == expected
    assert geometry.cell_sizes.tolist() == [len(members) for members in expected]
    assert geometry.n_cells == len(expected)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"filter_size": 7}, "filter_size 7 is larger than the 8x6 image .* choose at most 6"),
        ({"filter_size": 9, "padding": 1}, "filter_size 9 is larger .* choose at most 8"),
        ({"filter_size": 0}, "filter_size is 0; give a positive integer"),
        ({"filter_size": 3, "stride": 0}, "stride is 0"),
        ({"filter_size": 3, "padding": -1}, "padding is -1"),
        ({"filter_size": 3, "padding": 9}, "padding is 9; give 0 to 8 pixels"),
        ({"filter_size": 3, "stride": 9}, "stride 9 is larger than the 8x6 image .* at most 8"),
        ({"filter_size": 3, "stride": 11, "padding": 1}, "stride 11 .* at most 10"),
        ({"filter_size": 3, "cells": 0}, "cells is 0"),
        ({"filter_size": 3, "cells": 5}, "pooling 5 asks for more cells .* 6x4 grid"),
        ({"filter_size": 3, "stride": 8, "cells": 2}, "1x1 grid"),
    ],
)
def test_what_does_not_fit_is_a_wrong_setting(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        PatchGeometry((3, 8, 6), **settings)


def test_the_largest_filter_that_fits_leaves_one_patch():
    assert PatchGeometry((3, 8, 6), 8, padding=1).grid == (3, 1)
    assert PatchGeometry((3, 6, 6), 6).grid == (1, 1)
