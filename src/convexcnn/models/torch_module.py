"""A fitted two-layer classifier as a plain, differentiable ``torch.nn.Sequential`` on pixels."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from convexcnn.data.preprocess import ImageScaler
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.neurons import Neurons


class Standardise(nn.Module):
    """``ImageScaler`` as a layer: (x - mean_c) (1 / scale_c), less the image's mean if asked.

    Args:
        scaler: fitted on training images.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, scaler: ImageScaler) -> None:
        super().__init__()
        self.centre = scaler.centre
        self.register_buffer("mean", torch.tensor(scaler.mean)[:, None, None])
        inverse = 1 / torch.tensor(scaler.scale, dtype=torch.float64)
        self.register_buffer("inverse", inverse.to(self.mean.dtype)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels (n, channels, height, width), as trained on, to what the block sees."""
        scaled: Tensor = (images.to(self.mean.dtype) - self.mean) * self.inverse
        return scaled - scaled.mean((1, 2, 3), keepdim=True) if self.centre else scaled


class GatedFeatureMaps(nn.Module):
    """Every coordinate of every patch, behind every gate: 1[x_l . a_i >= 0] x_l.

    The gates are hard: their derivative is zero, so a gradient is that of the affine piece in
    which an image lies.

    Args:
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        gates: (g, d) gate vectors a_i in those coordinates.
    """

    def __init__(self, geometry: PatchGeometry, transform: PatchTransform, gates: Tensor) -> None:
        super().__init__()
        self.coordinates, self.gates = coordinate_layers(geometry, transform, gates)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images to (n, g * d, rows, columns)."""
        x = self.coordinates(images)
        on = (self.gates(x) >= 0).to(x.dtype)
        features: Tensor = (on[:, :, None] * x[:, None]).flatten(1, 2)
        return features


def coordinate_layers(
    geometry: PatchGeometry, transform: PatchTransform, gates: Tensor
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The coordinates of every patch, and what gates respond to them, as two convolutions.

    Args:
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        gates: (g, d).

    Returns:
        Scaled images to x_l, (n, d, rows, columns), and those to x_l . a_i, (n, g, rows, columns).
    """
    channels, side = geometry.image_shape[0], geometry.filter_size
    g, d = gates.shape
    coordinates = nn.Conv2d(channels, d, side, geometry.stride, geometry.padding)
    filters, bias = transform.double().to_filters(torch.eye(d).double())
    coordinates.load_state_dict({"weight": filters.view(d, channels, side, side), "bias": bias})
    responses = nn.Conv2d(d, g, 1, bias=False)
    responses.load_state_dict({"weight": gates[:, :, None, None]})
    return coordinates, responses


def gated_network(
    scaler: ImageScaler,
    geometry: PatchGeometry,
    transform: PatchTransform,
    gates: Tensor,
    weights: Tensor,
    bias: Tensor,
) -> nn.Sequential:
    """A gated block on pixels: ``scale``, ``features``, ``pool``, ``flatten``, ``head``.

    Args:
        scaler: pixels -> what the block sees.
        geometry: where patches and pooling cells lie.
        transform: raw patch -> d coordinates.
        gates: (g, d).
        weights: V, (k, cells, g, d).
        bias: b, (k,).
    """
    k = len(weights)
    head = nn.Linear(weights[0].numel(), k)
    by_channel = weights.flatten(2).transpose(1, 2).reshape(k, -1)
    head.load_state_dict({"weight": by_channel, "bias": bias})
    layers = {
        "scale": Standardise(scaler),
        "features": GatedFeatureMaps(geometry, transform, gates),
        "pool": nn.AdaptiveAvgPool2d(geometry.cells),
        "flatten": nn.Flatten(),
        "head": head,
    }
    return nn.Sequential(OrderedDict(layers)).eval()


def relu_network(
    scaler: ImageScaler, geometry: PatchGeometry, transform: PatchTransform, neurons: Neurons
) -> nn.Sequential:
    """A ReLU block on pixels: ``scale``, ``conv``, ``relu``, ``pool``, ``flatten``, ``head``.

    Args:
        scaler: pixels -> what the block sees.
        geometry: where patches and pooling cells lie.
        transform: raw patch -> the coordinates of the filters.
        neurons: filters, head and bias.
    """
    names = ("conv", "relu", "pool", "flatten", "head")
    layers = dict(zip(names, neurons.to_sequential(geometry, transform), strict=True))
    return nn.Sequential(OrderedDict({"scale": Standardise(scaler), **layers})).eval()
