"""A block whose head is linear in the pooled ReLU responses of its own gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.certificates.certify_neurons import certify_neurons, neuron_rows
from convexcnn.models.frozen_maps import standardise
from convexcnn.models.restored import check_shapes
from convexcnn.models.stack_settings import Block, Shape
from convexcnn.models.trained_block import TrainedBlock, downsampled, restored_parts, stored
from convexcnn.patches.responses import NeuronFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform


@dataclass(frozen=True, kw_only=True)
class NeuronBlock(TrainedBlock):
    """Scores sum_i Phi_i v_i + b with Phi_i = (1/q) sum_l max(0, x_l . a_i + c_i).

    It is the gated block with V_i = a_i v_i': every gate keeps only multiples of itself.

    Args:
        filters: (g, channels, f, f) gates a_i in (scaled) pixels of its input.
        thresholds: (g,) their constants c_i.
    """

    filters: Tensor
    thresholds: Tensor

    tensors = ("filters", "thresholds", "weights", "bias")
    before_head = ("filters", "thresholds")

    @property
    def features(self) -> NeuronFeatures:
        return NeuronFeatures(self.geometry, self.filters, self.thresholds)

    @property
    def map_shape(self) -> Shape:
        return self.settings.next_shape(self.geometry, len(self.filters))

    @property
    def transform(self) -> PatchTransform:
        """Pixels as they are, and a constant: the coordinates that ``gates`` are in."""
        dim = self.geometry.patch_dim
        return PatchTransform(self.filters.new_zeros(dim), None, 1.0)

    @property
    def gates(self) -> Tensor:
        """Filters and thresholds as gates (g, d) on pixels and a constant."""
        return torch.cat([self.filters.flatten(1), self.thresholds[:, None]], 1)

    @property
    def n_neurons(self) -> int:
        return len(self.filters)

    def maps(self, images: Tensor) -> Tensor:
        """ReLU responses max(0, x_l . a_i + c_i), down-sampled."""
        features = self.features
        pieces = [
            self.maps_of(features.responses(piece))
            for piece in torch.split(images, features.block_size)
        ]
        return torch.cat(pieces)

    def maps_of(self, responses: Tensor) -> Tensor:
        """Its maps from the responses (n, g, rows, columns) that its features are pooled from."""
        return stored(downsampled(responses, self.settings.downsample))

    def rough_images(self, images: Tensor) -> Tensor:
        assert self.scaler is not None, "the last block hands no maps on"
        dtype = images.dtype
        neurons = self.filters.to(dtype), self.thresholds.to(dtype)
        features = NeuronFeatures(self.geometry, *neurons)
        pieces = [
            downsampled(features.responses(piece), self.settings.downsample)
            for piece in torch.split(images, features.block_size)
        ]
        return torch.cat([standardise(maps, self.scaler, dtype) for maps in pieces])

    def without_maps(self) -> Self:
        return replace(self, scaler=None)

    def with_maps(self) -> Self:
        return self

    def certify(
        self, stream: ImageStream, progress: Callable[[int], None] | None = None
    ) -> Certificate:
        rows = neuron_rows(
            self.filters,
            self.thresholds,
            stream,
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            cells=self.geometry.cells,
            progress=progress,
        )
        head = self.weights, self.bias, self.beta
        return certify_neurons(rows, *head, self.kind, stream.processes)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {name: getattr(self, name) for name in self.tensors}, self.described()

    @classmethod
    def restored(
        cls,
        settings: Block,
        shape: Shape,
        n_classes: int,
        tensors: Mapping[str, Tensor],
        description: Mapping[str, Any],
    ) -> Self:
        geometry, gates = settings.geometry(shape), len(tensors["filters"])
        expected = {
            "filters": (gates, shape[0], geometry.filter_size, geometry.filter_size),
            "thresholds": (gates,),
            "weights": (n_classes, geometry.n_cells, gates, 1),
            "bias": (n_classes,),
        }
        check_shapes(tensors, expected)
        return cls(
            filters=tensors["filters"],
            thresholds=tensors["thresholds"],
            weights=tensors["weights"],
            bias=tensors["bias"],
            **restored_parts(settings, geometry, gates, description),
        )
