"""Gates: their shapes, their thresholds, and the same draw from the same generator."""

from __future__ import annotations

import pytest
import torch

from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.gates import SUM_KEPT, gaussian_gates, patch_gates
from convexcnn.patches.whiten import fit_whitening, identity_transform
from small import generator, random_images

GEOMETRY = PatchGeometry((3, 8, 8), 4, stride=2)
IMAGES = random_images(40, GEOMETRY.image_shape).float()
RAW = identity_transform(GEOMETRY.patch_dim)
WHITENED = fit_whitening(IMAGES, GEOMETRY, 10, constant=1.5)


def patch_gates_of(transform, seed=0, n_gates=7, **kwargs):
    return patch_gates(n_gates, IMAGES, GEOMETRY, transform, generator(seed), **kwargs)


def gaussian_gates_of(transform, seed=0, n_gates=7):
    return gaussian_gates(n_gates, GEOMETRY, transform, generator(seed))


@pytest.mark.parametrize("strategy", [patch_gates_of, gaussian_gates_of])
@pytest.mark.parametrize("transform", [RAW, WHITENED], ids=["raw", "whitened"])
def test_gates_are_one_draw_of_the_generator(strategy, transform):
    gates = strategy(transform)
    assert gates.shape == (7, transform.dim)
    assert gates.dtype == torch.float32
    assert torch.isfinite(gates).all()
    assert torch.equal(gates, strategy(transform))
    assert not torch.equal(gates, strategy(transform, seed=1))


@pytest.mark.parametrize("transform", [RAW, identity_transform(48, constant=1.0)])
def test_gaussian_gates_on_pixels_keep_a_hundredth_of_their_sums(transform):
    draw = torch.randn(500, transform.dim, generator=generator())
    gates = gaussian_gates_of(transform, n_gates=500)
    pixels, drawn = (x[:, :48].view(500, 3, 16) for x in (gates, draw))
    torch.testing.assert_close(pixels.sum(2), SUM_KEPT * drawn.sum(2), rtol=1e-3, atol=1e-5)
    centred = drawn - drawn.mean(2, keepdim=True)
    torch.testing.assert_close(pixels - pixels.mean(2, keepdim=True), centred)
    assert torch.equal(gates[:, 48:], draw[:, 48:])


def test_gaussian_gates_in_whitened_coordinates_are_standard_normal():
    gates = gaussian_gates_of(WHITENED, n_gates=2000)
    assert torch.equal(gates, torch.randn(2000, 11, generator=generator()))


def test_no_flat_patch_is_left_to_rounding():
    """A gate that sums to zero exactly would meet every flat patch at 0 = rounding noise."""
    gates = gaussian_gates_of(RAW, n_gates=500)
    colours = torch.randn(300, 3, generator=generator(1))
    flat = colours.repeat_interleave(16, dim=1)
    exact = flat.double() @ gates.double().T >= 0
    assert torch.equal(flat @ gates.T >= 0, exact)
    assert torch.equal((gates @ flat.T >= 0).T, exact)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_a_patch_gate_is_off_for_the_asked_share_of_patches(quantile):
    gates = patch_gates_of(WHITENED, quantile=quantile)
    patches = WHITENED(extract_patches(IMAGES, GEOMETRY)).flatten(0, 1)
    off = (patches @ gates.T < 0).float().mean(0)
    torch.testing.assert_close(off, torch.full((7,), quantile), rtol=0, atol=0.01)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_no_patch_lies_on_the_boundary_of_a_patch_gate(quantile):
    """An even background makes many patches equal, and a plateau in the responses."""
    images = torch.nn.functional.pad(IMAGES, (4, 4, 4, 4), value=0.3)
    geometry = PatchGeometry((3, 16, 16), 4, stride=2)
    transform = fit_whitening(images, geometry, 10)
    gates = patch_gates(20, images, geometry, transform, generator(), quantile=quantile)
    patches = transform(extract_patches(images, geometry)).flatten(0, 1)
    responses = patches.double() @ gates.double().T
    rounding = 1e-6 * patches.norm(dim=1, keepdim=True) * gates.norm(dim=1)
    assert (responses.abs() > rounding).all()


@pytest.mark.parametrize("transform", [RAW, WHITENED], ids=["raw", "whitened"])
def test_a_patch_gate_points_along_a_patch_of_the_data(transform):
    gates = patch_gates_of(transform)[:, : transform.projection.shape[1]]
    patches = transform(extract_patches(IMAGES, GEOMETRY)).flatten(0, 1)
    patches = patches[:, : gates.shape[1]]
    directions = patches / patches.norm(dim=1, keepdim=True)
    torch.testing.assert_close(gates.norm(dim=1), torch.ones(7))
    nearest = (gates @ directions.T).max(1)
    torch.testing.assert_close(nearest.values, torch.ones(7))
    assert len(set(nearest.indices.tolist())) == 7
