"""What it costs to climb on the pixels through blocks: how many classes, and images at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from convexcnn.explain.block import PatchBlock, block_of
from convexcnn.explain.stack import is_stack
from convexcnn.models.base import ImageClassifier
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.trained_block import TrainedBlock

WORK = 3e12
"""Multiplications that climbing for a report may take: about half a minute on two cores."""

MEMORY = 1e9
"""Bytes that the maps of one batch may take."""

BACKWARD = 3
"""A value with its gradient, in multiples of the value alone."""


def affordable_classes(
    model: ImageClassifier, classes: int, filters: int, starts: int, steps: int
) -> int:
    """Return how many classes of every block there is time for, at least one.

    Args:
        model: fitted.
        classes: at most so many.
        filters: of every class, from the second block on.
        starts: of every class and filter.
        steps: of every start.
    """
    climbs = [1, *(1 + filters for _ in _costs(model)[1:])]
    of_image = sum(n * work for n, (work, _) in zip(climbs, _costs(model), strict=True))
    most = WORK // (BACKWARD * (steps + 2) * starts * of_image)
    return int(max(1, min(classes, len(model.classes_), most)))


def images_at_once(model: ImageClassifier) -> int:
    """Return how many images fit through all blocks of a model together, at least one."""
    _, numbers = _costs(model)[-1]
    return max(1, int(MEMORY // (4 * numbers)))


def _costs(model: ImageClassifier) -> list[tuple[float, float]]:
    """Multiplications and kept numbers of one image up to and including every block."""
    blocks: Sequence[PatchBlock | TrainedBlock]
    blocks = model.blocks_ if is_stack(model) else [block_of(model)]
    channels = [*(block.geometry.image_shape[0] for block in blocks[1:]), 0]
    work, kept = [], []
    for block, m in zip(blocks, channels, strict=True):
        rows, columns = block.geometry.grid
        if isinstance(block, NeuronBlock):
            work.append(1.0 * rows * columns * block.geometry.patch_dim * block.n_gates)
            kept.append(4.0 * rows * columns * block.n_gates)
            continue
        g, d = block.gates.shape
        work.append(rows * columns * d * (block.geometry.patch_dim + 2.0 * g + m))
        kept.append(2.0 * rows * columns * (d + 2 * g + 2 * m))
    return list(zip(accumulate(work), accumulate(kept), strict=True))
