"""A network that learns the neurons of a block for the block after it, too.

One more convolution and a head of its own stand on the maps of the block while its filters are
learned, and are thrown away afterwards: the auxiliary network with k = 2 of Belilovsky, Eickenberg
& Oyallon (2019, section 3), beside the head with k = 1 that the convex program takes the place of.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, cross_entropy

from convexcnn.models.neuron_network import SMOOTHING, NeuronNetwork
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import downsampled
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import cell_averages
from convexcnn.patches.whiten import PatchTransform

WIDTH = 128
"""Neurons of the further convolution."""

OWN_SHARE = 0.5
"""Weight of the loss of the block's own head beside that of the further one."""


class LookaheadNetwork(NeuronNetwork):
    """Two hidden layers: the neurons of a block, and 3x3 neurons on the maps they make.

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
        self.next = next_geometry(block, geometry)
        device = self.directions.device
        second = torch.randn(WIDTH, self.next.patch_dim, generator=generator)
        self.second = (second / second.norm(dim=1, keepdim=True)).to(device)
        self.gain, self.shift = torch.ones(WIDTH, device=device), torch.zeros(WIDTH, device=device)
        self.next_head = torch.zeros(n_classes, self.next.n_cells * WIDTH, device=device)
        self.next_bias = torch.zeros(n_classes, device=device)

    @property
    def parameters(self) -> list[Tensor]:
        further = [self.second, self.gain, self.shift, self.next_head, self.next_bias]
        return [*super().parameters, *further]

    @property
    def unit_rows(self) -> list[Tensor]:
        return [*super().unit_rows, self.second]

    def both_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, k) of the block's own head, and of the one behind the further convolution."""
        filters, thresholds = self.filters()
        place = {"stride": self.geometry.stride, "padding": self.geometry.padding}
        responses = conv2d(
            images, _as(images, filters), thresholds.to(images.dtype), **place
        ).relu_()
        weights, bias = self.own_head()
        own = torch.addmm(bias, _pool(responses, self.geometry), weights.T)
        maps = batch_norm(downsampled(responses, self.downsample), None, None, training=True)
        further = conv2d(maps, _as(images, self.second.view(WIDTH, -1, 3, 3)), padding=1)
        further = batch_norm(further, None, None, self.gain, self.shift, training=True).relu_()
        pooled = _pool(further, self.next)
        return own, torch.addmm(self.next_bias, pooled, self.next_head.T)

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, further = self.both_scores(images)
        own_loss, further_loss = (
            cross_entropy(scores, targets, label_smoothing=SMOOTHING) for scores in (own, further)
        )
        return OWN_SHARE * own_loss + further_loss, own_loss, own


def next_geometry(block: Block, geometry: PatchGeometry) -> PatchGeometry:
    """Where the patches and cells of the further convolution lie, on the maps of a block."""
    shape = block.next_shape(geometry, block.n_gates)
    return PatchGeometry(shape, 3, 1, 1, min(block.pooling, *shape[1:]))


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


def _as(images: Tensor, filters: Tensor) -> Tensor:
    """Filters in the precision and the layout of images."""
    return filters.to(images.dtype).contiguous(memory_format=torch.channels_last)


def _pool(responses: Tensor, geometry: PatchGeometry) -> Tensor:
    """Averages over cells (n, cells g), float32, of responses (n, g, rows, columns)."""
    averages = cell_averages(geometry).to(responses)
    pooled = torch.matmul(averages, responses.permute(0, 2, 3, 1).flatten(1, 2))
    return pooled.flatten(1).float()
