"""Exact contributions: what every patch and every gate adds to a score, and back to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from convexcnn.explain.block import PatchBlock, block_inputs, block_of
from convexcnn.explain.scorer import Target, as_tensor, picked, resolve_target
from convexcnn.explain.stack import averages_mirror_images
from convexcnn.models.base import ImageClassifier
from convexcnn.patches.float32 import fast_float32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Contributions:
    """What the scores of n images are made of; no approximation, and nothing is left over.

    scores = patches summed over rows and columns + intercept = gates summed over gates + intercept

    Args:
        patches: (n, k, rows, columns), what every patch adds to every class.
        gates: (n, k, g), what the patches behind every gate add to every class; of a ReLU
            network, what every neuron adds.
        intercept: (k,), what every image gets.
    """

    patches: Floats
    gates: Floats
    intercept: Floats

    @property
    def scores(self) -> Floats:
        """(n, k): the parts put together again."""
        total: Floats = self.patches.sum((2, 3)) + self.intercept
        return total

    def of_class(self, target: Target) -> Floats:
        """The maps of one class per image.

        Args:
            target: class (column of the scores) for all images, (n,) one for each, or None for
                the class with the highest score.

        Returns:
            (n, rows, columns).

        Raises:
            DataError: another number of classes than images.
            SettingError: a class that is not there.
        """
        scores = torch.from_numpy(self.scores)
        columns = resolve_target(target, lambda: scores, len(scores))
        picked(scores, columns)
        maps: Floats = self.patches[np.arange(len(scores)), columns.numpy()]
        return maps


def exact_contributions(model: ImageClassifier, images: ArrayLike) -> Contributions:
    """Split every score of a fitted classifier into what patches and gates add to it.

    F_c(x) = b_c + sum_l sum_i (1/q) 1[x_l . a_i >= 0] x_l . v_{c,cell(l),i}

    Of a stack, F is the head that it predicts by, and x_l are patches of the frozen input of that
    block: maps of the block before. ``block_head`` chooses another head.

    Where a stack averages the scores of an image with those of its mirror image, so do the parts;
    those of the mirror image are mirrored back.

    A patch that lies in two pooling cells adds to both; its map shows the sum. Gates are decided by
    the arithmetic that ``model.scores`` uses, so both agree on patches near a gate's boundary.

    Args:
        model: fitted, with one block, or a stack that predicts by one head.
        images: n images, in any layout that ``fit`` takes.

    Returns:
        The contributions; ``scores`` equals ``model.scores(images)`` to rounding.

    Raises:
        DataError: images that do not fit the model.
        SettingError: a model without a block of patches and gates, or with several heads.
    """
    block = block_of(model)
    patches, gates = _parts(model, block, images)
    if averages_mirror_images(model):
        others, other_gates = _parts(model, block, as_tensor(images, model).flip(3))
        patches, gates = (patches + others.flip(3)) / 2, (gates + other_gates) / 2
    return Contributions(patches.numpy(), gates.numpy(), block.intercept.cpu().numpy())


def _parts(model: ImageClassifier, block: PatchBlock, images: ArrayLike) -> tuple[Tensor, Tensor]:
    """What patches (n, k, rows, columns) and gates (n, k, g) add, image by image."""
    rows, columns = block.geometry.grid
    k, g = block.n_classes, len(block.gates)
    patches, gates = [torch.zeros(0, k, rows, columns)], [torch.zeros(0, k, g)]
    with torch.no_grad(), fast_float32():
        for scaled in block_inputs(model, images):
            for part in torch.split(scaled, block.images_at_once):
                by_patch, by_gate = block_contributions(block, part)
                patches.append(by_patch.cpu())
                gates.append(by_gate.cpu())
    return torch.cat(patches), torch.cat(gates)


def block_contributions(block: PatchBlock, images: Tensor) -> tuple[Tensor, Tensor]:
    """Split the scores of one block, whatever it sees: pixels or the maps of an earlier block.

    Args:
        block: patches, gates and head.
        images: (n, channels, height, width), scaled.

    Returns:
        What patches add, (n, k, rows, columns), and what gates add, (n, k, g).
    """
    patches, on = block.cells_of(images)
    n, cells, q, dim = patches.shape
    k, g = block.n_classes, len(block.gates)
    values = patches.new_empty(n, k, cells, q)
    by_gate = patches.new_zeros(n, k, g)
    for cell in range(cells):
        x, open_ = patches[:, cell].reshape(-1, dim), on[:, cell]
        for c in range(k):
            linear = (x @ block.weights[c, cell].T).view(n, q, g).mul_(open_)
            values[:, c, cell] = linear.sum(2)
            by_gate[:, c] += linear.sum(1)
    return block.to_grid(values), by_gate
