"""Usual networks, AlexNet and VGG-11, for images of any size: what stacks are measured against."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from convexcnn.errors import SettingError

Shape = tuple[int, int, int]

VGG11_WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of VGG-11's convolutions; every group ends with max pooling."""

LARGE_SIDE, MIDDLE_SIDE = 128, 48
"""Pixels from which AlexNet's first layer has its own stride of 4, and a stride of 2."""

MOST_CELLS = 6
"""Cells per side that AlexNet's fully connected layers see of a map, at most."""


def alexnet(image_shape: Shape, k: int) -> nn.Sequential:
    """Return AlexNet with random weights, its first layer and its head fitted to the images.

    Five convolutions, three overlapping 3x3 max poolings and three fully connected layers with
    dropout, in the widths of Krizhevsky: *One weird trick for parallelizing convolutional neural
    networks* (2014), without local response normalisation. Filters of 11x11 at stride 4, as there,
    are for 128 pixels and more; smaller images get 7x7 at stride 2 (48 pixels and more) or 5x5 at
    stride 1, and 1,024 fully connected units instead of 4,096, so that every image of 32 to 64
    pixels, too, comes to the second convolution with 15x15 positions.

    Args:
        image_shape: (channels, height, width).
        k: number of classes.

    Returns:
        A module from (n, channels, height, width) to scores (n, k).
    """
    channels, *sides = image_shape
    small = min(sides)
    size, stride, padding, units = (5, 1, 2, 1024)
    if small >= LARGE_SIDE:
        size, stride, padding, units = (11, 4, 2, 4096)
    elif small >= MIDDLE_SIDE:
        size, stride, padding, units = (7, 2, 3, 1024)
    layers: list[nn.Module] = []
    sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
    convolutions = (
        (nn.Conv2d(channels, 64, size, stride, padding), True),
        (nn.Conv2d(64, 192, 5, padding=2), True),
        (nn.Conv2d(192, 384, 3, padding=1), False),
        (nn.Conv2d(384, 256, 3, padding=1), False),
        (nn.Conv2d(256, 256, 3, padding=1), True),
    )
    for convolution, pooled in convolutions:
        layers.append(convolution)
        if pooled and min(sides) >= 3:
            layers.append(nn.MaxPool2d(3, 2))
            sides = [(side - 3) // 2 + 1 for side in sides]
        layers.append(nn.ReLU(inplace=True))
    if max(sides) > MOST_CELLS:
        sides = [min(side, MOST_CELLS) for side in sides]
        layers.append(nn.AdaptiveAvgPool2d((sides[0], sides[1])))
    layers += [
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * sides[0] * sides[1], units),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(units, units),
        nn.ReLU(inplace=True),
        nn.Linear(units, k),
    ]
    return _initialised(nn.Sequential(*layers))


def vgg11(image_shape: Shape, k: int) -> nn.Sequential:
    """Return VGG-11 with batch normalisation, random weights and a head on averages of its maps.

    The eight convolutions of configuration A in Simonyan & Zisserman: *Very Deep Convolutional
    Networks for Large-Scale Image Recognition* (ICLR 2015), each with the batch normalisation of
    Ioffe & Szegedy (ICML 2015). As usual for small images, one linear layer on the maps' averages
    stands for the three fully connected layers, which hold nine tenths of the original's weights.

    Args:
        image_shape: (channels, height, width).
        k: number of classes.

    Returns:
        A module from (n, channels, height, width) to scores (n, k).
    """
    channels, *sides = image_shape
    side = min(sides)
    layers: list[nn.Module] = []
    for group in VGG11_WIDTHS:
        for number, width in enumerate(group, 1):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            ]
            channels = width
            if number == len(group) and side >= 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers.append(nn.ReLU(inplace=True))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, k)]
    return _initialised(nn.Sequential(*layers))


NETWORKS: dict[str, Callable[[Shape, int], nn.Sequential]] = {"alexnet": alexnet, "vgg11": vgg11}


def build_network(name: str, image_shape: Shape, k: int) -> nn.Sequential:
    """Return a network by name, with random weights; SettingError if there is none."""
    if name not in NETWORKS:
        raise SettingError(f"network {name!r} is not known; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name](image_shape, k)


def _initialised(network: nn.Sequential) -> nn.Sequential:
    """The network with weights as He and others (ICCV 2015) draw them, and biases of zero.

    Pooling stands before ReLU everywhere: the two commute, and ReLU then has a quarter to do.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.01)
    return network
