"""One trained block of a stack: its head, its neurons, and the maps that it hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexcnn.certificates.certificate import Certificate, GatedBlock
from convexcnn.data.preprocess import ImageScaler
from convexcnn.models.base import check_shapes, finite
from convexcnn.models.frozen_maps import standardise
from convexcnn.models.stack_settings import Block, Shape
from convexcnn.models.strength import VISIBLE, count_neurons
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.regularisers import gate_matrices

TENSORS = ("mean", "projection", "gates", "weights", "bias", "neurons", "neuron_gates")


@dataclass(frozen=True)
class TrainedBlock:
    """A convex block that is trained and frozen.

    Args:
        settings: as given.
        geometry: where the patches of its input lie, and the cells of its head.
        transform: raw patch -> d coordinates.
        gates: (g, d).
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        beta: weight of the ridge that held-out images chose.
        neurons: (m, d) unit vectors u_j, the strongest first; none in the last block.
        neuron_gates: (m,) which gate every neuron has.
        scaler: standardisation of its maps; None in the last block.
        measures: loss and accuracy by ``train``, ``validation``, and ``stack``: on held-out images,
            of the best prediction that uses the heads up to this one.
        path: one dictionary per beta that was tried.
        certificate: how far the head is from its optimum; None if that was not asked for.
        solver: name, reason and outcome of the solver.
        seconds: time by phase.
    """

    settings: Block
    geometry: PatchGeometry
    transform: PatchTransform
    gates: Tensor
    weights: Tensor
    bias: Tensor
    beta: float
    neurons: Tensor
    neuron_gates: Tensor
    scaler: ImageScaler | None = None
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    path: tuple[dict[str, Any], ...] = ()
    certificate: Certificate | None = None
    solver: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def features(self) -> GatedFeatures:
        """The operator Phi of its head."""
        return GatedFeatures(self.geometry, self.transform, self.gates)

    @property
    def map_shape(self) -> Shape:
        """Channels, height and width of its maps."""
        return self.settings.next_shape(self.geometry, len(self.neurons))

    @property
    def n_neurons(self) -> int:
        """Neurons whose responses are handed on; of the last block, those of its head."""
        return len(self.neurons) or count_neurons(self.weights, shared=True)

    def scores(self, images: Tensor) -> Tensor:
        """Scores (n, k) of its head for its scaled input (n, channels, height, width)."""
        scores: Tensor = self.features(images) @ self.weights.flatten(1).T + self.bias
        return scores

    def maps(self, images: Tensor) -> Tensor:
        """Gated responses 1[x_l . a >= 0] (x_l . u_j) of its neurons, down-sampled.

        Args:
            images: (n, channels, height, width), its scaled input.

        Returns:
            (n, channels, height, width) of ``map_shape``, float16, not standardised.
        """
        patches = self.transform(extract_patches(images, self.geometry)).flatten(0, 1)
        used, place = np.unique(self.neuron_gates.cpu().numpy(), return_inverse=True)
        on = (patches @ self.gates[used].T >= 0).to(patches.dtype)
        responses = (patches @ self.neurons.T).mul_(on[:, place])
        grid = responses.view(len(images), *self.geometry.grid, -1).permute(0, 3, 1, 2)
        return _downsample(grid, self.settings.downsample).half().contiguous()

    def next_images(self, images: Tensor) -> Tensor:
        """Its maps, standardised: what the next block sees."""
        assert self.scaler is not None, "the last block hands no maps on"
        return standardise(self.maps(images), self.scaler)

    def without_maps(self) -> TrainedBlock:
        """The block as the last one: nothing is handed on."""
        neurons, gates = self.neurons[:0], self.neuron_gates[:0]
        return replace(self, neurons=neurons, neuron_gates=gates, scaler=None)

    def raw(self) -> GatedBlock:
        """The block as certificates want it."""
        return GatedBlock.of(self.features, self.weights, self.bias, self.beta)

    def to(self, device: str) -> TrainedBlock:
        tensors = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, (Tensor, PatchTransform))
        }
        return replace(self, **tensors)  # type: ignore[arg-type]

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and everything JSON-able that ``restored`` needs; no certificate."""
        transform = self.transform
        tensors = {
            "mean": transform.mean,
            "projection": transform.projection,
            "gates": self.gates,
            "weights": self.weights,
            "bias": self.bias,
            "neurons": self.neurons,
            "neuron_gates": self.neuron_gates.float(),
        }
        description = {
            "constant": transform.constant,
            "beta": self.beta,
            "scaler": None if self.scaler is None else self.scaler.to_dict(),
            "measures": self.measures,
        }
        return tensors, description

    @classmethod
    def restored(
        cls,
        settings: Block,
        shape: Shape,
        n_classes: int,
        tensors: Mapping[str, Tensor],
        description: Mapping[str, Any],
    ) -> TrainedBlock:
        """The block that ``saved`` described, with every shape checked.

        Args:
            settings: of the block.
            shape: of its input.
            n_classes: k.
            tensors: by name, with others perhaps.
            description: the rest.

        Raises:
            ValueError: something that does not fit together.
        """
        geometry = settings.geometry(shape)
        transform = PatchTransform(
            tensors["mean"], tensors["projection"], float(description["constant"])
        )
        gates, m = len(tensors["gates"]), len(tensors["neurons"])
        expected = {
            "mean": (geometry.patch_dim,),
            "projection": (geometry.patch_dim, transform.projection.shape[-1]),
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
        scaler = None
        if description["scaler"] is not None:
            scaler = ImageScaler.from_dict(description["scaler"])
            if len(scaler.mean) != settings.next_shape(geometry, m)[0]:
                raise ValueError("the scaler of the maps has another number of channels")
        return cls(
            settings,
            geometry,
            transform,
            tensors["gates"],
            tensors["weights"],
            tensors["bias"],
            finite(description, "beta"),
            tensors["neurons"],
            indices,
            scaler,
            dict(description["measures"]),
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


def _downsample(maps: Tensor, how: str) -> Tensor:
    """Halve maps (n, channels, height, width) in height and width; an odd last line is cut."""
    if how == "none":
        return maps
    if how == "average":
        return torch.nn.functional.avg_pool2d(maps, 2)
    rows, columns = (size // 2 * 2 for size in maps.shape[2:])
    return torch.nn.functional.pixel_unshuffle(maps[:, :, :rows, :columns], 2)
