"""One trained block as what explanations need: gates, and the linear response behind every gate.

    F_c(x) = b_c + sum_cells (1/q) sum_{l in cell} sum_i 1[x_l . a_i >= 0] x_l . v_{c,cell,i}

A gated block is this as it stands. A ReLU block is this too, with v_{c,cell,j} = w_{c,cell,j} u_j
and a_j = u_j, because (x . u)_+ = 1[x . u >= 0] x . u.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.explain.scorer import as_read_by
from convexcnn.explain.stack import is_stack, only_head
from convexcnn.models.base import ImageClassifier
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.torch_stack import on_patches
from convexcnn.models.two_layer import ConvexConvClassifier
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.operator import CACHE_BYTES, PatchPooling
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.neurons import relu_neurons


@dataclass(frozen=True)
class PatchBlock:
    """A block of patches, gates and a linear head.

    Args:
        geometry: where patches and pooling cells lie.
        transform: raw patch -> d coordinates.
        gates: (g, d) gate vectors a_i.
        weights: V, (k, cells, g, d).
        intercept: b, (k,).
    """

    geometry: PatchGeometry
    transform: PatchTransform
    gates: Tensor
    weights: Tensor
    intercept: Tensor

    def to(self, device: str) -> PatchBlock:
        tensors = (self.gates, self.weights, self.intercept)
        return PatchBlock(
            self.geometry, self.transform.to(device), *(tensor.to(device) for tensor in tensors)
        )

    @property
    def n_classes(self) -> int:
        return len(self.intercept)

    @cached_property
    def pooling(self) -> PatchPooling:
        """Scaled images to patches sorted by cell, each divided by the size q of its cell."""
        return PatchPooling(self.geometry, self.transform)

    @property
    def images_at_once(self) -> int:
        """Images whose gate responses stay in the processor's cache."""
        responses = self.geometry.cell_order.numel() * len(self.gates)
        return max(1, CACHE_BYTES // (4 * max(1, responses)))

    def cells_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patches and gates of every cell.

        Args:
            images: (n, channels, height, width), scaled.

        Returns:
            x_l / q, (n, cells, q, d), and 1[x_l . a_i >= 0], (n, cells, q, g), of the same type.
        """
        patches = self.pooling(images)
        n, dim = len(patches), patches.shape[-1]
        flat = patches.reshape(-1, dim)
        on = torch.mm(flat, self.gates.T)
        torch.ge(on, 0, out=on)
        shape = n, self.geometry.n_cells, patches.shape[1] // self.geometry.n_cells
        return patches.view(*shape, dim), on.view(*shape, len(self.gates))

    def flat_patches(self, images: Tensor) -> Tensor:
        """Patches x_l of scaled images in row-major order, (n, p, d)."""
        return self.transform(extract_patches(images, self.geometry))

    def to_grid(self, values: Tensor) -> Tensor:
        """Sum what the cells say of every patch.

        Args:
            values: (n, k, cells, q).

        Returns:
            (n, k, rows, columns).
        """
        rows, columns = self.geometry.grid
        order = self.geometry.cell_order.flatten().to(values.device)
        grid = values.new_zeros(*values.shape[:2], rows * columns + 1)
        grid.index_add_(2, order, values.flatten(2))
        return grid[..., :-1].reshape(*values.shape[:2], rows, columns)


def has_block(model: object) -> TypeGuard[ConvexConvClassifier | NonConvexConvClassifier]:
    """Whether a model is one block whose scores are sums over patches; max pooling has none."""
    if isinstance(model, ConvexConvClassifier):
        return model.as_trained().pool == "average"
    return isinstance(model, NonConvexConvClassifier)


def block_of(model: ImageClassifier) -> PatchBlock:
    """Return the block of a fitted two-layer classifier, or the one whose head a stack predicts by.

    Raises:
        SettingError: a model of another kind, or several heads.
    """
    if is_stack(model):
        model.check_trained()
        block = model.blocks_[only_head(model) - 1]
        weights = on_patches(block.weights, block.gates)
        return PatchBlock(block.geometry, block.transform, block.gates, weights, block.bias)
    if not isinstance(model, (ConvexConvClassifier, NonConvexConvClassifier)):
        raise SettingError(
            f"model is a {type(model).__name__}; give a fitted ConvexConvClassifier, "
            f"NonConvexConvClassifier or LayerwiseConvexCNN"
        )
    model = model.as_trained()
    if isinstance(model, ConvexConvClassifier):
        model.require_average("a sum over patches")
    if isinstance(model, ConvexConvClassifier) and model.formulation == "relu":
        neurons = relu_neurons(model.coef_, model.intercept_)
        gates, weights = neurons.filters, neurons.head[..., None] * neurons.filters
    elif isinstance(model, ConvexConvClassifier):
        gates, weights = model.gates_, model.coef_
    else:
        gates = model.filters_
        head = model.coef_.view(len(model.classes_), -1, len(gates))
        weights = head[..., None] * gates
    return PatchBlock(model.geometry(), model.transform_, gates, weights, model.intercept_)


def block_inputs(model: ImageClassifier, images: ArrayLike) -> Iterator[Tensor]:
    """Yield what the block of ``block_of`` sees of images, a few at a time.

    Args:
        model: fitted, as ``block_of`` takes it.
        images: n images, in any layout that ``fit`` takes, or from ``as_tensor``.

    Yields:
        Scaled images, or the frozen maps of the block before: (b, channels, height, width).
    """
    before = model.blocks_[: only_head(model) - 1] if is_stack(model) else []
    for scaled in model.scaled_blocks(as_read_by(model, images)):
        for block in before:
            scaled = block.next_images(scaled)
        yield scaled


def blocks_with_targets(
    images: Iterator[Tensor], targets: Tensor, at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and their target classes together, at most ``at_once`` of them at a time."""
    start = 0
    for block in images:
        for part in torch.split(block, at_once):
            yield part, targets[start : start + len(part)].to(part.device)
            start += len(part)
