"""How many images of a mini-batch are seen at once while the neurons of a block are learned.

Mini-batches of small images are seen whole. Those of large ones come in pieces, whose gradients are
added up to that of the mini-batch; only the batch normalisations of a network that looks ahead then
see a piece instead of all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from convexcnn.models.lookahead_network import further_layers
from convexcnn.models.neuron_network import BATCH, descent_dtype
from convexcnn.models.stack_settings import LEARNED, Block, Shape
from convexcnn.patches.extract import PatchGeometry

DESCENT_BYTES = 2**29
"""What a piece of a mini-batch may take, everything that is learned from it included."""

FEWEST = 16
"""Images of a piece, however large they are: the statistics of fewer would be mostly noise."""

LOADED = 4
"""Copies of the pixels of an image, in float32, while it is scaled, shifted and mirrored."""

SLOPES = 2
"""Of the largest layer, on the way back: what comes in, and what goes out."""


def bytes_per_image(
    block: Block, geometry: PatchGeometry, image_shape: Shape, dtype: torch.dtype, *, last: bool
) -> int:
    """What an image takes at most on its way into a mini-batch and while a block learns from it.

    Args:
        block: settings.
        geometry: where its patches and cells lie.
        image_shape: of the images, which may go through earlier blocks.
        dtype: of descent.
        last: whether no block follows.
    """
    rows, columns = geometry.grid
    layers = [rows * columns * block.n_gates]
    kept = int(np.prod(geometry.image_shape)) + layers[0]
    if block.gates == "lookahead" and not last:
        maps = int(np.prod(block.next_shape(geometry, block.n_gates)))
        further = further_layers(block, geometry)
        layers += [int(np.prod(place.grid)) * width for place, width in further]
        kept += 2 * (maps + sum(layers[1:]))
    learned = dtype.itemsize * (kept + SLOPES * max(layers))
    return max(learned, 4 * LOADED * int(np.prod(image_shape)))


def images_at_once(
    block: Block, geometry: PatchGeometry, image_shape: Shape, device: str, *, last: bool
) -> int:
    """Images of a piece of a mini-batch; those of a whole one if there is room for them."""
    per_image = bytes_per_image(block, geometry, image_shape, descent_dtype(device), last=last)
    return min(BATCH, max(FEWEST, DESCENT_BYTES // per_image))


def descent_gb(
    blocks: Sequence[Block],
    geometries: Sequence[PatchGeometry],
    image_shape: Shape,
    device: str,
    images: int,
) -> float:
    """What the mini-batches of all blocks take at most, if there are so many images."""
    taken = 0
    for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1):
        if block.head != "neurons" or block.gates not in LEARNED:
            continue
        last = number == len(blocks)
        at_once = images_at_once(block, geometry, image_shape, device, last=last)
        each = bytes_per_image(block, geometry, image_shape, descent_dtype(device), last=last)
        taken = max(taken, min(at_once, images) * each)
    return 1e-9 * taken
