"""Grad-CAM equals captum's and torchcam's, and contributions where they are the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convexcnn.errors import DataError, SettingError
from convexcnn.explain.contributions import exact_contributions
from convexcnn.explain.gradcam import grad_cam
from convexcnn.explain.pixels import on_pixels
from convexcnn.models.end_to_end import MirrorAverage

LAYERS = {"convex": "features", "non-convex": "relu"}


def close(maps, expected):
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def captums(network, layer: str, images, targets):
    attribution = pytest.importorskip("captum.attr", reason="captum is not installed")
    part = dict(network.named_modules())[layer]
    maps = attribution.LayerGradCam(network, part).attribute(images, targets)
    return maps.detach().numpy()[:, 0]


def last_maps(model) -> str:
    return "relu" if "relu" in dict(model.to_torch().named_children()) else "features"


def deep_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def test_classifiers_have_the_maps_of_captum(model, data) -> None:
    images = torch.from_numpy(data[0][:6]).float()
    expected = captums(model.to_torch(), last_maps(model), images, [0, 1, 2, 0, 1, 2])
    close(grad_cam(model, data[0][:6], [0, 1, 2, 0, 1, 2]), expected)
    close(grad_cam(model, images, [0, 1, 2, 0, 1, 2], layer=last_maps(model)), expected)


@pytest.mark.parametrize("layer", ["0", "1", "3", "4"])
def test_layers_of_any_module_have_the_maps_of_captum(data, layer: str) -> None:
    network, images = deep_network().eval(), torch.from_numpy(data[0][:5]).float() / 255
    close(grad_cam(network, images, 2, layer=layer), captums(network, layer, images, 2))


def test_maps_are_those_before_a_layer_that_changes_them_in_place(data) -> None:
    network, images = deep_network().eval(), torch.from_numpy(data[0][:5]).float() / 255
    expected = captums(network, "3", images, 2)
    network[4] = nn.ReLU(inplace=True)
    close(grad_cam(network, images, 2, layer="3"), expected)


@pytest.mark.parametrize("layer", ["0", "3"])
def test_mirror_images_have_their_part_mirrored_back(data, layer: str) -> None:
    network, images = deep_network().eval(), torch.from_numpy(data[0][:5]).float() / 255
    one_way = captums(network, layer, images, 2)
    other_way = captums(network, layer, images.flip(3), 2)[:, :, ::-1]
    mirrored = nn.Sequential(nn.Identity(), MirrorAverage(network))
    found = grad_cam(mirrored, images, 2, layer=f"1.network.{layer}", batch_size=2)
    close(found, (one_way + other_way) / 2)
    assert np.abs(one_way - other_way).max() > 0.1 * np.abs(one_way).max()


def test_a_layer_called_several_times_is_refused(data) -> None:
    again = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(again, nn.ReLU(), again, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.from_numpy(data[0][:2]).float()
    for module, layer in ((network, "0"), (MirrorAverage(network), "network.0")):
        with pytest.raises(SettingError, match=f"layer '{layer}' is called several times"):
            grad_cam(module, images, 0, layer=layer)
    assert grad_cam(MirrorAverage(network), images, 0, layer="network.1").shape == (2, 9, 9)


class Open(nn.Module):
    """Which responses are positive: bits, or the same as numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images > 0).to(self.dtype)


class Gated(nn.Module):
    """Scores that a gate decides on by comparison, so that they have no slope by its output."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.open = Open(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.where(self.open(images) > 0, images, 0.0).mean((2, 3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_layer_without_a_gradient_is_refused(data, dtype: torch.dtype) -> None:
    images = torch.from_numpy(data[0][:2]).float()
    with pytest.raises(SettingError, match="layer 'open' has no gradient"):
        grad_cam(Gated(dtype), images, 0, layer="open")


def test_torchcam_agrees_up_to_its_scaling(data) -> None:
    methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    network, images = deep_network().eval(), torch.from_numpy(data[0][:4]).float() / 255
    with methods.GradCAM(network, target_layer=network[3]) as extractor:
        scores = network(images.clone().requires_grad_())
        (expected,) = extractor([1, 1, 1, 1], scores, normalized=False)
    close(grad_cam(network, images, 1, layer="3", positive=True), expected.detach().numpy())


def test_with_one_cell_it_is_the_map_of_contributions(classifiers, data) -> None:
    model = classifiers["convex, padding and one cell"]
    exact = exact_contributions(model, data[0][:5]).of_class(1)
    close(grad_cam(model, data[0][:5], 1), exact)


def test_batches_and_mode_do_not_matter(data) -> None:
    network, images = deep_network().train(), torch.from_numpy(data[0][:5]).float() / 255
    maps = grad_cam(network, images, layer="3", batch_size=2)
    assert network.training
    network[1].eval()
    grad_cam(network, images, layer="3")
    assert [part.training for part in network] == [True, False, *[True] * 6]
    np.testing.assert_allclose(maps, grad_cam(network, images, layer="3"), rtol=1e-5, atol=1e-7)


def test_maps_are_enlarged_to_pixels() -> None:
    large = on_pixels(np.array([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))
    assert large.shape == (1, 4, 4)
    np.testing.assert_allclose(large[0, 0], [0, 0.25, 0.75, 1])


@pytest.mark.parametrize("layer", [None, "conv9"])
def test_a_layer_that_is_not_there_is_refused(layer) -> None:
    with pytest.raises(SettingError, match="choose one of 0, 1, 2"):
        grad_cam(deep_network(), torch.rand(1, 3, 9, 9), 0, layer=layer)


def test_images_at_once_change_nothing_and_are_checked(convex_model, data) -> None:
    maps = grad_cam(convex_model, data[0][:5], 0)
    np.testing.assert_allclose(
        grad_cam(convex_model, data[0][:5], 0, batch_size=2), maps, rtol=1e-4, atol=1e-6
    )
    half = torch.from_numpy(data[0][:5]).bfloat16()
    np.testing.assert_array_equal(
        grad_cam(convex_model, half, 0), grad_cam(convex_model, half.float(), 0)
    )
    for size in (0, 2.5, "all"):
        with pytest.raises(SettingError, match="batch_size is"):
            grad_cam(convex_model, data[0][:5], 0, batch_size=size)
    with pytest.raises(DataError, match="give a dense one"):
        grad_cam(convex_model, half.to_sparse(), 0)


def test_a_layer_without_maps_and_a_class_out_of_range_are_refused(convex_model, data) -> None:
    with pytest.raises(SettingError, match="gives no maps"):
        grad_cam(deep_network(), torch.rand(1, 3, 9, 9), 0, layer="7")
    with pytest.raises(SettingError, match="no class of this model"):
        grad_cam(convex_model, data[0][:1], 7)
