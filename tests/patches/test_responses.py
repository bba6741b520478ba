"""Pooled ReLU responses are those of plain convolutions, and so is their gradient."""

from __future__ import annotations

import pytest
import torch

from convexcnn.patches import responses
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import KnownFeatures, NeuronFeatures, cell_averages, pooled_relu
from convexcnn.patches.whiten import PatchTransform, fit_triangular_whitening
from small import generator

GEOMETRIES = [
    PatchGeometry((2, 9, 8), 3, 1, 1, 2),
    PatchGeometry((2, 9, 8), 4, 2, 0, 1),
    PatchGeometry((2, 9, 8), 3, 1, 0, 3),
]


def parts(geometry: PatchGeometry, n: int = 23) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.randn(n, *geometry.image_shape, generator=generator())
    side = geometry.filter_size
    filters = torch.randn(5, geometry.image_shape[0], side, side, generator=generator(1))
    return images, filters, torch.randn(5, generator=generator(2))


def plain(images, filters, thresholds, geometry) -> torch.Tensor:
    """(n, cells, g) as torch computes it."""
    found = torch.nn.functional.conv2d(
        images, filters, thresholds, geometry.stride, geometry.padding
    ).relu()
    pooled = torch.nn.functional.adaptive_avg_pool2d(found, geometry.cells)
    return pooled.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_features_are_averages_of_relu_responses(geometry):
    images, filters, thresholds = parts(geometry)
    features = NeuronFeatures(geometry, filters, thresholds)
    assert features.shape == (geometry.n_cells, 5, 1)
    expected = plain(images, filters, thresholds, geometry).flatten(1)
    torch.testing.assert_close(features(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_are_those_of_autograd(geometry, monkeypatch):
    monkeypatch.setattr(responses, "CACHE_BYTES", 1)  # several pieces, of 8 images
    images, filters, thresholds = parts(geometry)
    own = [filters.clone().requires_grad_(), thresholds.clone().requires_grad_()]
    weights = torch.randn(23, geometry.n_cells, 5, generator=generator(3))
    found = pooled_relu(images, *own, geometry)
    (found * weights).sum().backward()
    theirs = [filters.clone().requires_grad_(), thresholds.clone().requires_grad_()]
    expected = plain(images, *theirs, geometry)
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near():
    geometry = GEOMETRIES[0]
    images, filters, thresholds = parts(geometry)
    rough = images.bfloat16().contiguous(memory_format=torch.channels_last)
    found = pooled_relu(rough, filters, thresholds, geometry)
    assert found.dtype == torch.float32
    expected = plain(images, filters, thresholds, geometry)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_averages_of_overlapping_cells():
    averages = cell_averages(PatchGeometry((1, 3, 3), 1, 1, 0, 2))
    torch.testing.assert_close(averages.sum(1), torch.ones(4))
    assert (averages > 0).sum(1).tolist() == [4, 4, 4, 4]


def test_known_features_are_handed_on_in_any_precision():
    features = KnownFeatures((4, 3, 1))
    phi = torch.randn(6, 12, generator=generator())
    assert torch.equal(features(phi[:, :, None, None]), phi)
    assert features.double()(phi[:, :, None, None]).dtype == torch.float64
    out = torch.empty(6, 12)
    assert features(phi[:, :, None, None], out) is out
    assert torch.equal(out, phi)


def test_triangular_whitening_makes_patches_white():
    geometry = PatchGeometry((2, 8, 8), 3, 1, 0)
    smooth = torch.nn.functional.avg_pool2d(
        torch.randn(600, 2, 10, 10, generator=generator()), 3, 1
    )
    transform = fit_triangular_whitening(smooth, geometry, regularisation=1e-6)
    windows = torch.nn.functional.unfold(smooth, 3).transpose(1, 2).reshape(-1, 18)
    white = transform(windows)[:, :-1]
    covariance = white.T @ white / len(white)
    torch.testing.assert_close(covariance, torch.eye(18), rtol=0, atol=0.02)


def test_a_transform_without_a_matrix_is_the_identity():
    mean = torch.randn(7, generator=generator())
    without = PatchTransform(mean, None, 1.0)
    within = PatchTransform(mean, torch.eye(7), 1.0)
    patches = torch.randn(5, 3, 7, generator=generator(1))
    torch.testing.assert_close(without(patches), within(patches))
    weights = torch.randn(4, 8, generator=generator(2))
    for one, other in zip(without.to_filters(weights), within.to_filters(weights), strict=True):
        torch.testing.assert_close(one, other)
    assert without.is_identity
    assert without.dim == 8
    assert torch.equal(without.matrix, torch.eye(7))
    assert without.double().mean.dtype == torch.float64
