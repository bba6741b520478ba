"""Phi: what the loops of the reference say, whatever the blocks, the buffers and the cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn import reference
from convexcnn.patches import operator
from convexcnn.patches.operator import GatedFeatures
from small import (
    GEOMETRIES,
    TRANSFORMS,
    make_features,
    random_images,
    reference_patches,
    reference_phi,
)

CASES = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


@CASES
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_features_agree_with_the_reference(geometry, kind):
    images, features = random_images(3, geometry.image_shape), make_features(geometry, kind)
    phi = features(images)
    assert phi.shape == (3, features.n_features)
    assert features.n_features == np.prod(features.shape)
    assert features.shape == (geometry.n_cells, 4, features.transform.dim)
    np.testing.assert_allclose(phi, reference_phi(images, features), rtol=0, atol=1e-13)


@CASES
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_max_features_agree_with_the_reference(geometry, kind):
    images, average = random_images(6, geometry.image_shape), make_features(geometry, kind)
    features = GatedFeatures(geometry, average.transform, average.gates, pool="max")
    phi = features(images).view(6, *features.shape)
    x = reference_patches(images, geometry, features.transform)
    expected = reference.max_gated_features(x, features.gates.numpy(), geometry.cells)
    np.testing.assert_allclose(phi, expected, rtol=0, atol=1e-13)


def test_features_in_float32_are_as_accurate_as_float32_is():
    exact = make_features(GEOMETRIES["overlapping cells"], "whitened")
    images = random_images(5, (2, 7, 7))
    transform = exact.transform.to("cpu")
    single = GatedFeatures(
        exact.geometry,
        type(transform)(transform.mean.float(), transform.projection.float(), transform.constant),
        exact.gates.float(),
    )
    phi = single(images.float())
    assert phi.dtype == torch.float32
    torch.testing.assert_close(phi.double(), exact(images), rtol=1e-5, atol=1e-5)


@CASES
def test_pooled_patches_sum_to_the_mean_of_their_cell(geometry):
    images, features = random_images(3, geometry.image_shape), make_features(geometry)
    pooled = features.pooling(images).view(3, geometry.n_cells, -1, geometry.patch_dim).sum(2)
    everywhere = GatedFeatures(geometry, features.transform, torch.zeros_like(features.gates[:1]))
    torch.testing.assert_close(pooled.flatten(1), everywhere(images))
    if geometry.n_cells == 1:
        mean = reference_patches(images, geometry, features.transform).mean((1, 2))
        np.testing.assert_allclose(pooled[:, 0], mean, rtol=0, atol=1e-14)


def test_a_gate_and_its_opposite_share_the_patches():
    geometry = GEOMETRIES["even cells"]
    images, features = random_images(4, geometry.image_shape), make_features(geometry)
    opposite = GatedFeatures(geometry, features.transform, -features.gates)
    both = features(images) + opposite(images)
    everywhere = GatedFeatures(geometry, features.transform, torch.zeros_like(features.gates))
    torch.testing.assert_close(both, everywhere(images))


@CASES
def test_features_do_not_depend_on_the_block_size(geometry, monkeypatch):
    images, features = random_images(11, geometry.image_shape), make_features(geometry)
    assert features.block_size >= 11
    whole = features(images)
    monkeypatch.setattr(operator, "CACHE_BYTES", 1)
    assert features.block_size == 4
    torch.testing.assert_close(features(images), whole, rtol=0, atol=1e-14)
    one_by_one = torch.cat([features(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, whole, rtol=0, atol=1e-14)


def test_multiplying_twice_gives_the_same_bits_in_any_buffer():
    geometry = GEOMETRIES["ragged cells"]
    images, features = random_images(6, geometry.image_shape), make_features(geometry)
    first = features(images)
    out = torch.full((6, features.n_features), torch.nan, dtype=torch.float64)
    assert features(images, out) is out
    assert torch.equal(out, first)
    features(random_images(9, geometry.image_shape, seed=5))  # the work space grows and is dirty
    assert torch.equal(features(images), first)


def test_images_are_left_alone():
    geometry = GEOMETRIES["one patch"]  # its only patch is the image itself, in memory
    images, features = random_images(3, geometry.image_shape), make_features(geometry)
    before = images.clone()
    features(images)
    assert torch.equal(images, before)
