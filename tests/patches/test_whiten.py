"""Whitening makes patches uncorrelated with unit variance, and filters find back to pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform
from small import GEOMETRIES, TRANSFORMS, make_transform, random_images, reference_patches

GEOMETRY = PatchGeometry((2, 6, 6), 3)


def natural_images(n: int = 60) -> torch.Tensor:
    """Images whose neighbouring pixels are alike, on a mean that is not 0."""
    smooth = torch.nn.functional.avg_pool2d(random_images(n, (2, 9, 9)), 4, stride=1)
    return 3 * smooth + 0.4 + 0.05 * random_images(n, (2, 6, 6), seed=1)


def transformed(images: torch.Tensor, transform: PatchTransform) -> torch.Tensor:
    return transform(extract_patches(images, GEOMETRY)).flatten(0, 1)


@pytest.mark.parametrize("rank", [1, 5, GEOMETRY.patch_dim])
def test_whitened_patches_have_mean_zero_and_unit_covariance(rank):
    images = natural_images()
    transform = fit_whitening(images, GEOMETRY, rank, regularisation=0.0, constant=0.0)
    patches = transformed(images, transform)
    assert patches.shape[1] == transform.dim == rank
    torch.testing.assert_close(patches.mean(0), torch.zeros_like(patches[0]))
    covariance = torch.cov(patches.T, correction=0).view(rank, rank)
    torch.testing.assert_close(covariance, torch.eye(rank, dtype=covariance.dtype))


def test_the_leading_principal_directions_are_kept_and_weak_ones_damped():
    images, rank, eps = natural_images(), 6, 1e-2
    raw = extract_patches(images, GEOMETRY).flatten(0, 1).numpy()
    values, vectors = np.linalg.eigh(np.cov(raw.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    transform = fit_whitening(images, GEOMETRY, rank, regularisation=eps, constant=0.0)
    variances = transformed(images, transform).var(0, correction=0)
    np.testing.assert_allclose(
        variances, values[:rank] / (values[:rank] + eps * values[0]), rtol=1e-9
    )
    kept = transform.projection.numpy()
    np.testing.assert_allclose(  # the same subspace: projections on it agree
        vectors[:, :rank] @ vectors[:, :rank].T @ kept, kept, atol=1e-9
    )


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_functions_of_coordinates_are_filters_on_pixels(geometry, kind):
    transform = make_transform(kind, geometry)
    patches = extract_patches(random_images(3, geometry.image_shape), geometry)
    weights = torch.randn(5, transform.dim, dtype=torch.float64)
    filters, biases = transform.to_filters(weights)
    assert filters.shape == (5, geometry.patch_dim)
    torch.testing.assert_close(transform(patches) @ weights.T, patches @ filters.T + biases)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_coordinates_agree_with_the_reference(kind):
    transform, images = make_transform(kind, GEOMETRY), random_images(3, GEOMETRY.image_shape)
    expected = reference_patches(images, GEOMETRY, transform)
    found = transform(extract_patches(images, GEOMETRY))
    assert found.shape[-1] == transform.dim
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-12)


def test_a_transform_takes_patches_of_any_leading_shape_and_leaves_them_alone():
    transform = make_transform("whitened", GEOMETRY)
    patches = torch.randn(2, 3, 4, GEOMETRY.patch_dim, dtype=torch.float64)
    before = patches.clone()
    found = transform(patches)
    assert torch.equal(patches, before)
    torch.testing.assert_close(found[1, 2], transform(patches[1, 2]))


def test_raw_pixels_know_that_they_are_raw():
    assert identity_transform(12).is_identity
    assert identity_transform(12, constant=1.0).is_identity
    assert identity_transform(12, constant=1.0).dim == 13
    assert not make_transform("whitened", GEOMETRY).is_identity


def test_float64_is_the_same_map():
    transform = fit_whitening(natural_images().float(), GEOMETRY, 4)
    assert transform.projection.dtype == torch.float32
    patches = extract_patches(natural_images(), GEOMETRY)
    found = transform.double()(patches)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), transform(patches.float()), rtol=1e-4, atol=1e-4)


def test_images_without_variance_become_the_constant():
    images = torch.full((4, 2, 6, 6), 3.0)
    patches = transformed(images, fit_whitening(images, GEOMETRY, 3))
    assert torch.equal(patches, torch.tensor([0.0, 0, 0, 1]).expand_as(patches))


@pytest.mark.parametrize("rank", [-1, 0, 19])
def test_a_rank_out_of_range_is_a_wrong_setting(rank):
    with pytest.raises(SettingError, match=f"whiten is {rank}; keep between 1 and 18"):
        fit_whitening(natural_images(), GEOMETRY, rank)
