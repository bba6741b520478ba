"""A network that learns the neurons of a block for the blocks after it, too.

Further convolutions and a head of their own stand on the maps of the block while its filters are
learned, and are thrown away afterwards: the auxiliary network with k = 2 or 3 of Belilovsky,
Eickenberg & Oyallon (2019, section 3), beside the head with k = 1 that the convex program takes the
place of.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, cross_entropy

from convexcnn.models.neuron_network import SMOOTHING, NeuronNetwork
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import downsampled
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import cell_averages
from convexcnn.patches.whiten import PatchTransform

WIDTHS = 128, 256
"""Neurons of the further convolutions, of which a block takes the first one or both."""

HALVED_FROM = 8
"""Rows and columns from which maps are halved before all of them but the first."""

OWN_SHARE = 0.5
"""Weight of the loss of the block's own head beside that of the last one."""


class FurtherConvolution:
    """3x3 neurons between two batch normalisations and ReLU, on the maps of a block or another one.

    Args:
        geometry: where its patches lie.
        width: number of neurons.
        generator: initial filters.
        device: where they are learned.
    """

    def __init__(
        self,
        geometry: PatchGeometry,
        width: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.geometry = geometry
        rows = torch.randn(width, geometry.patch_dim, generator=generator)
        self.rows = (rows / rows.norm(dim=1, keepdim=True)).to(device)
        self.gain, self.shift = torch.ones(width, device=device), torch.zeros(width, device=device)

    def __call__(self, maps: Tensor) -> Tensor:
        """Responses (n, width, rows, columns) to maps, halved before if they are twice as large."""
        if maps.shape[2:] != self.geometry.image_shape[1:]:
            maps = avg_pool2d(maps, 2)
        filters = self.rows.view(len(self.rows), -1, 3, 3)
        responses = conv2d(maps, _as(maps, filters), padding=1)
        return _normalised(responses, self.gain, self.shift).relu_()


class LookaheadNetwork(NeuronNetwork):
    """The neurons of a block as the first of several hidden layers.

    Args:
        block: settings: width and what happens to its maps.
        geometry: where its patches and pooling cells lie.
        transform: raw patch -> white coordinates and a constant.
        n_classes: k.
        generator: initial directions.
    """

    def __init__(
        self,
        block: Block,
        geometry: PatchGeometry,
        transform: PatchTransform,
        n_classes: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(geometry, transform, block.n_gates, n_classes, generator)
        self.downsample = block.downsample
        device = self.directions.device
        layers = further_layers(block, geometry)
        self.further = [FurtherConvolution(*layer, generator, device) for layer in layers]
        pooled = self.further[-1].geometry.n_cells * len(self.further[-1].rows)
        self.further_head = torch.zeros(n_classes, pooled, device=device)
        self.further_bias = torch.zeros(n_classes, device=device)

    @property
    def parameters(self) -> list[Tensor]:
        layers = [part for layer in self.further for part in (layer.rows, layer.gain, layer.shift)]
        return [*super().parameters, *layers, self.further_head, self.further_bias]

    @property
    def unit_rows(self) -> list[Tensor]:
        return [*super().unit_rows, *(layer.rows for layer in self.further)]

    def both_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, k) of the block's own head, and of the one behind further convolutions."""
        filters, thresholds = self.filters()
        place = {"stride": self.geometry.stride, "padding": self.geometry.padding}
        responses = conv2d(
            images, _as(images, filters), thresholds.to(images.dtype), **place
        ).relu_()
        weights, bias = self.own_head()
        own = torch.addmm(bias, _pool(responses, self.geometry), weights.T)
        maps = _normalised(downsampled(responses, self.downsample))
        for layer in self.further:
            maps = layer(maps)
        pooled = _pool(maps, self.further[-1].geometry)
        return own, torch.addmm(self.further_bias, pooled, self.further_head.T)

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, further = self.both_scores(images)
        own_loss, further_loss = (
            cross_entropy(scores, targets, label_smoothing=SMOOTHING) for scores in (own, further)
        )
        return OWN_SHARE * own_loss + further_loss, own_loss, own


def further_layers(block: Block, geometry: PatchGeometry) -> list[tuple[PatchGeometry, int]]:
    """Where patches and cells of further convolutions lie, and how many neurons each has.

    The first sees the maps of the block, each other one those of the one before.
    """
    channels, height, width = block.next_shape(geometry, block.n_gates)
    found: list[tuple[PatchGeometry, int]] = []
    for neurons in WIDTHS[: block.lookahead]:
        if found and min(height, width) >= HALVED_FROM:
            height, width = height // 2, width // 2
        cells = min(block.pooling, height, width)
        found.append((PatchGeometry((channels, height, width), 3, 1, 1, cells), neurons))
        channels = neurons
    return found


def network_of(
    block: Block,
    geometry: PatchGeometry,
    transform: PatchTransform,
    n_classes: int,
    generator: torch.Generator,
    *,
    last: bool,
) -> NeuronNetwork:
    """Return the network that lends a block its neurons; the last block has nothing to look to."""
    if block.gates == "lookahead" and not last:
        return LookaheadNetwork(block, geometry, transform, n_classes, generator)
    return NeuronNetwork(geometry, transform, block.n_gates, n_classes, generator)


def _normalised(maps: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Batch normalisation, also of a single pixel of a single image, which is its own mean."""
    if maps.shape[0] * maps.shape[2] * maps.shape[3] == 1:
        maps = maps.expand(2, -1, -1, -1)
        return batch_norm(maps, None, None, gain, shift, training=True)[:1]
    return batch_norm(maps, None, None, gain, shift, training=True)


def _as(images: Tensor, filters: Tensor) -> Tensor:
    """Filters in the precision and the layout of images."""
    return filters.to(images.dtype).contiguous(memory_format=torch.channels_last)


def _pool(responses: Tensor, geometry: PatchGeometry) -> Tensor:
    """Averages over cells (n, cells g), float32, of responses (n, g, rows, columns)."""
    averages = cell_averages(geometry).to(responses)
    pooled = torch.matmul(averages, responses.permute(0, 2, 3, 1).flatten(1, 2))
    return pooled.flatten(1).float()
