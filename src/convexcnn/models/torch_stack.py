"""A fitted stack of blocks as a plain, differentiable torch module on pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from convexcnn.data.preprocess import ImageScaler
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.patch_block import PatchBlock
from convexcnn.models.torch_module import Standardise, coordinate_layers
from convexcnn.models.trained_block import TrainedBlock, downsampled, stored
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import cell_averages
from convexcnn.patches.whiten import PatchTransform


class Coordinates(nn.Module):
    """Patches in their d coordinates, and which gates are open: x_l and 1[x_l . a_i >= 0].

    Args:
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        gates: (g, d).
    """

    def __init__(self, geometry: PatchGeometry, transform: PatchTransform, gates: Tensor) -> None:
        super().__init__()
        self.patches, self.gates = coordinate_layers(geometry, transform, gates)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map scaled images to (n, d, rows, columns) and (n, g, rows, columns).

        Gates are hard: their derivative is zero.
        """
        x = self.patches(images)
        return x, (self.gates(x) >= 0).to(x.dtype)


class GatedHead(nn.Module):
    """F = b + sum_cells sum_i (1/q) sum_{l in cell} 1[x_l . a_i >= 0] x_l . v_{cell,i}.

    Args:
        geometry: where patches and pooling cells lie.
        weights: V, (k, cells, g, d); of d = 1, what weighs the ReLU responses (x_l . a_i)_+.
        gates: (g, d), for the case of d = 1.
        bias: b, (k,).
    """

    order: Tensor
    sizes: Tensor

    def __init__(
        self, geometry: PatchGeometry, weights: Tensor, gates: Tensor, bias: Tensor
    ) -> None:
        super().__init__()
        weights = on_patches(weights, gates)
        self.linear = nn.Linear(weights[0].numel(), len(weights))
        self.linear.load_state_dict({"weight": weights.flatten(1), "bias": bias})
        self.register_buffer("order", geometry.cell_order)
        self.register_buffer("sizes", geometry.cell_sizes)

    def forward(self, patches: Tensor, on: Tensor) -> Tensor:
        """Scores (n, k) of patches (n, d, rows, columns) and open gates (n, g, rows, columns)."""
        x, d = (
            nn.functional.pad(maps.flatten(2), (0, 1))[:, :, self.order] for maps in (patches, on)
        )
        pooled = torch.einsum("ngcq,ndcq->ncgd", d, x) / self.sizes[:, None, None]
        scores: Tensor = self.linear(pooled.flatten(1))
        return scores


class Responses(nn.Module):
    """Responses x_l . a_i + c_i of neurons, and where they are open; cf. :class:`Coordinates`.

    Args:
        block: whose head and maps are made of its own neurons.
    """

    def __init__(self, block: NeuronBlock) -> None:
        super().__init__()
        g, channels, side, _ = block.filters.shape
        self.neurons = nn.Conv2d(channels, g, side, block.geometry.stride, block.geometry.padding)
        self.neurons.load_state_dict({"weight": block.filters, "bias": block.thresholds})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map scaled images to responses and open gates, both (n, g, rows, columns)."""
        responses = self.neurons(images)
        return responses, (responses >= 0).to(responses.dtype)


class NeuronHead(nn.Module):
    """F = b + sum_cells sum_i (1/q) sum_{l in cell} (x_l . a_i + c_i)_+ v_{cell,i}.

    Args:
        block: whose head is linear in its own neurons.
    """

    averages: Tensor

    def __init__(self, block: NeuronBlock) -> None:
        super().__init__()
        self.linear = nn.Linear(block.weights[0].numel(), len(block.weights))
        self.linear.load_state_dict({"weight": block.weights.flatten(1), "bias": block.bias})
        self.register_buffer("averages", cell_averages(block.geometry))

    def forward(self, responses: Tensor, on: Tensor) -> Tensor:
        """Scores (n, k) of responses and open gates (n, g, rows, columns)."""
        pooled = torch.einsum("cl,ngl->ncg", self.averages, (responses * on).flatten(2))
        scores: Tensor = self.linear(pooled.flatten(1))
        return scores


class NeuronMaps(nn.Module):
    """Gated responses of neurons, down-sampled, rounded to 16 bits, standardised.

    A gradient passes the rounding as if it were not there; ``rounds = False`` leaves it out.

    Args:
        block: with neurons that are handed on.
        scaler: of the maps.
    """

    of_neuron: Tensor

    def __init__(self, block: TrainedBlock, scaler: ImageScaler) -> None:
        super().__init__()
        self.neurons: nn.Module = nn.Identity()
        if isinstance(block, PatchBlock):
            m, d = block.neurons.shape
            self.neurons = nn.Conv2d(d, m, 1, bias=False)
            self.neurons.load_state_dict({"weight": block.neurons[:, :, None, None]})
            self.register_buffer("of_neuron", block.neuron_gates)
        else:
            self.register_buffer("of_neuron", torch.arange(block.n_gates))
        self.downsample = block.settings.downsample
        self.rounds = True
        self.scale = Standardise(scaler)

    def forward(self, patches: Tensor, on: Tensor) -> Tensor:
        """Maps (n, channels, height, width) that the next block sees."""
        maps = downsampled(self.neurons(patches) * on[:, self.of_neuron], self.downsample)
        if self.rounds:
            maps = maps + (stored(maps).to(maps.dtype) - maps).detach()
        scaled: Tensor = self.scale(maps)
        return scaled


class BlockNetwork(nn.Module):
    """One block: ``coordinates``, ``head`` and, if it hands maps on, ``maps``.

    Args:
        block: trained.
        last: whether nothing follows it.
    """

    def __init__(self, block: TrainedBlock, *, last: bool) -> None:
        super().__init__()
        if isinstance(block, NeuronBlock):
            self.coordinates: nn.Module = Responses(block)
            self.head: nn.Module = NeuronHead(block)
        else:
            self.coordinates = Coordinates(block.geometry, block.transform, block.gates)
            self.head = GatedHead(block.geometry, block.weights, block.gates, block.bias)
        self.maps: nn.Module | None = None
        if not last:
            assert block.scaler is not None, "only the last block has no maps to hand on"
            self.maps = NeuronMaps(block, block.scaler)


class StackNetwork(nn.Module):
    """A stack on pixels: ``scale``, then ``blocks``; the sum of its heads, each by its weight.

    Args:
        scaler: pixels -> what the first block sees.
        blocks: one after the other.
        head_weights: (B,).
        mirror: whether scores are averaged with those of the mirror image.
    """

    def __init__(
        self,
        scaler: ImageScaler,
        blocks: Sequence[TrainedBlock],
        head_weights: Sequence[float],
        *,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self.scale = Standardise(scaler)
        self.blocks = nn.ModuleList(
            BlockNetwork(block.to("cpu"), last=number == len(blocks))
            for number, block in enumerate(blocks, 1)
        )
        self.head_weights = tuple(head_weights)
        self.mirror = mirror

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, k) of images (n, channels, height, width), as trained on."""
        scores = self._one_way(images)
        return (scores + self._one_way(images.flip(3))) / 2 if self.mirror else scores

    def _one_way(self, images: Tensor) -> Tensor:
        scores = [
            weight * block.head(patches, on)
            for weight, (block, patches, on) in zip(
                self.head_weights, self.steps(images), strict=True
            )
            if weight
        ]
        return torch.stack(scores).sum(0)

    @property
    def last(self) -> BlockNetwork:
        """The last block."""
        block = self.blocks[-1]
        assert isinstance(block, BlockNetwork)
        return block

    def steps(self, images: Tensor) -> Iterator[tuple[BlockNetwork, Tensor, Tensor]]:
        """Yield every block with its patches (n, d, ...) and open gates (n, g, rows, columns)."""
        maps = self.scale(images)
        for block in self.blocks:
            assert isinstance(block, BlockNetwork)
            patches, on = block.coordinates(maps)
            yield block, patches, on
            if block.maps is not None:
                maps = block.maps(patches, on)


def on_patches(weights: Tensor, gates: Tensor) -> Tensor:
    """Weights of ReLU responses as weights of the patches behind every gate, V = w a_i.

    Args:
        weights: (k, cells, g, d); those of d = 1 weigh (x . a_i)_+ = 1[x . a_i >= 0] x . a_i.
        gates: (g, d) gate vectors a_i.

    Returns:
        (k, cells, g, d); weights of whole patches are returned as they are.
    """
    return weights if weights.shape[-1] == gates.shape[-1] else weights * gates
