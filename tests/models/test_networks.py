"""AlexNet and VGG-11 take images of any size, and are those of their papers on large ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convexcnn.errors import SettingError
from convexcnn.models.networks import NETWORKS, build_network

SHAPES = [(1, 1, 1), (1, 8, 8), (3, 5, 40), (3, 32, 32), (3, 64, 64)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_of_any_size_get_scores(name: str, shape: tuple[int, int, int]) -> None:
    network = build_network(name, shape, 7).eval()
    with torch.no_grad():
        scores = network(torch.randn(2, *shape))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()


def convolutions(network: nn.Sequential) -> list[tuple[int, int]]:
    found = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    return [(layer.out_channels, layer.kernel_size[0]) for layer in found]


@pytest.mark.parametrize("name", NETWORKS)
def test_large_images_meet_the_published_network(name: str) -> None:
    network = build_network(name, (3, 224, 224), 1000)
    if name == "alexnet":
        assert convolutions(network) == [(64, 11), (192, 5), (384, 3), (256, 3), (256, 3)]
        assert sum(p.numel() for p in network.parameters()) == 61_100_840  # as torchvision's
    else:
        widths = (64, 128, 256, 256, 512, 512, 512, 512)
        assert convolutions(network) == [(width, 3) for width in widths]
        head = 512 * 1000 + 1000
        weights = sum(p.numel() for p in network.parameters()) - head
        assert weights == 9_220_480 - sum(widths) + 2 * sum(widths)  # normalisation for biases


def test_maps_of_very_large_images_are_averaged_before_the_head() -> None:
    network = build_network("alexnet", (1, 400, 300), 2)
    assert any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in network)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(SettingError, match="'lenet' is not known; choose from alexnet, vgg11"):
        build_network("lenet", (1, 8, 8), 2)
