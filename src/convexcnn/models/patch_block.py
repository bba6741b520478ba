"""A block whose head is linear in whole gated patches: the gated program as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from convexcnn.certificates.block_certificate import certify_block
from convexcnn.certificates.certificate import Certificate, GatedBlock
from convexcnn.errors import SettingError
from convexcnn.models.restored import check_shapes
from convexcnn.models.stack_settings import Block, Shape
from convexcnn.models.strength import VISIBLE, count_neurons
from convexcnn.models.trained_block import TrainedBlock, downsampled, restored_parts, stored
from convexcnn.patches.extract import extract_patches
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.regularisers import gate_matrices


@dataclass(frozen=True, kw_only=True)
class PatchBlock(TrainedBlock):
    """Scores sum_i Phi_i V_i + b with Phi_i = (1/q) sum_l 1[x_l . a_i >= 0] x_l, V_i free.

    Args:
        transform: raw patch -> d coordinates.
        gates: (g, d).
        neurons: (m, d) unit vectors u_j, the strongest first; none in the last block.
        neuron_gates: (m,) which gate every neuron has.
    """

    transform: PatchTransform
    gates: Tensor
    neurons: Tensor
    neuron_gates: Tensor

    tensors = ("mean", "projection", "gates", "weights", "bias", "neurons", "neuron_gates")
    before_head = ("gates", "neurons")

    @property
    def features(self) -> GatedFeatures:
        return GatedFeatures(self.geometry, self.transform, self.gates)

    @property
    def map_shape(self) -> Shape:
        return self.settings.next_shape(self.geometry, len(self.neurons))

    @property
    def n_neurons(self) -> int:
        return len(self.neurons) or count_neurons(self.weights, shared=True)

    def maps(self, images: Tensor) -> Tensor:
        """Gated responses 1[x_l . a >= 0] (x_l . u_j) of its neurons, down-sampled."""
        patches = self.transform(extract_patches(images, self.geometry)).flatten(0, 1)
        used, place = np.unique(self.neuron_gates.cpu().numpy(), return_inverse=True)
        on = (patches @ self.gates[used].T >= 0).to(patches.dtype)
        responses = (patches @ self.neurons.T).mul_(on[:, place])
        grid = responses.view(len(images), *self.geometry.grid, -1).permute(0, 3, 1, 2)
        return stored(downsampled(grid, self.settings.downsample))

    def without_maps(self) -> Self:
        neurons, gates = self.neurons[:0], self.neuron_gates[:0]
        return replace(self, neurons=neurons, neuron_gates=gates, scaler=None)

    def with_maps(self) -> Self:
        if len(self.neurons):
            return self
        neurons, gates = strongest_neurons(self.weights, self.settings.n_neurons)
        if not len(neurons):
            raise SettingError(
                f"the last block keeps no neuron at beta {self.beta:g}: no block can follow it; "
                "train anew with smaller betas"
            )
        return replace(self, neurons=neurons, neuron_gates=gates)

    def certify(
        self, stream: ImageStream, progress: Callable[[int], None] | None = None
    ) -> Certificate:
        block = GatedBlock.of(self.features, self.weights, self.bias, self.beta)
        certificate = certify_block(block, stream, self.kind, progress=progress).certificate
        scope = f"{certificate.scope}, given the frozen input of the block"
        return replace(certificate, scope=scope)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        transform = self.transform
        tensors = {
            "mean": transform.mean,
            "projection": transform.matrix,
            "gates": self.gates,
            "weights": self.weights,
            "bias": self.bias,
            "neurons": self.neurons,
            "neuron_gates": self.neuron_gates.float(),
        }
        return tensors, {"constant": transform.constant, **self.described()}

    @classmethod
    def restored(
        cls,
        settings: Block,
        shape: Shape,
        n_classes: int,
        tensors: Mapping[str, Tensor],
        description: Mapping[str, Any],
    ) -> Self:
        geometry = settings.geometry(shape)
        transform = PatchTransform(
            tensors["mean"], tensors["projection"], float(description["constant"])
        )
        gates, m = len(tensors["gates"]), len(tensors["neurons"])
        expected = {
            "mean": (geometry.patch_dim,),
            "projection": (geometry.patch_dim, transform.rank),
            "gates": (gates, transform.dim),
            "weights": (n_classes, geometry.n_cells, gates, transform.dim),
            "bias": (n_classes,),
            "neurons": (m, transform.dim),
            "neuron_gates": (m,),
        }
        check_shapes(tensors, expected)
        indices = tensors["neuron_gates"].long()
        if not bool(((indices >= 0) & (indices < gates)).all()):
            raise ValueError("a neuron has a gate that is not there")
        return cls(
            transform=transform,
            gates=tensors["gates"],
            weights=tensors["weights"],
            bias=tensors["bias"],
            neurons=tensors["neurons"],
            neuron_gates=indices,
            **restored_parts(settings, geometry, m, description),
        )


def strongest_neurons(weights: Tensor, n_neurons: int) -> tuple[Tensor, Tensor]:
    """Return the strongest singular factors of all V_i as neurons.

    V_i = sum_r s_ir u_ir w_ir' over classes and cells (Sahiner et al. 2024): the neuron u_ir of
    gate i has strength s_ir.

    Args:
        weights: V, (k, cells, g, d).
        n_neurons: how many, M.

    Returns:
        u (m, d) by falling strength, and the gate of each (m,); m < M where there are no more.
    """
    left, values, _ = torch.linalg.svd(gate_matrices(weights.double()), full_matrices=False)
    strength, order = values.flatten().sort(descending=True, stable=True)
    order = order[strength > VISIBLE * strength[0]][:n_neurons]
    directions = left.transpose(1, 2).flatten(0, 1)[order]
    return directions.to(weights.dtype), order // values.shape[1]
