"""All training patches in blocks, as often as a solver asks: kept if they are small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.program import Program

BLOCK_ELEMENTS = 2**19
"""Responses of all gates to one block of patches: they should stay in the processor's cache."""

KEPT_BYTES = 2 * 2**30
"""Patches of at most this size stay in memory; larger ones are cut out of the images again."""


@dataclass(frozen=True)
class PatchBlocks:
    """Patches of all images, with what else a program needs.

    Args:
        gates: (g, d), float64.
        targets: Y, (n, k), float64.
        cells: pooling cells per image.
        stored: gives blocks (b, cells, q, d) in order, divided by the number of patches in their
            cell, in any precision.
    """

    gates: Tensor
    targets: Tensor
    cells: int
    stored: Callable[[], Iterable[Tensor]]

    @classmethod
    def from_program(cls, program: Program) -> PatchBlocks:
        """The patches of a program in memory."""
        _, cells, q, _ = program.patches.shape
        size = _images_per_block(cells * q, len(program.gates))
        blocks = torch.split(program.patches, size)
        return cls(program.gates.double(), program.targets.double(), cells, lambda: blocks)

    @classmethod
    def from_streams(cls, features: GatedFeatures, streams: Sequence[ImageStream]) -> PatchBlocks:
        """The patches of images, kept in float32 if they fit into ``KEPT_BYTES``.

        The last bit of a float32 product depends on the size of its block, and some walls of the
        cones are nearer than that: a certificate should be given these same blocks.
        """
        cells, (g, d) = features.geometry.n_cells, features.gates.shape
        places = features.geometry.cell_order.numel()
        size = _images_per_block(places, g)

        def blocks() -> Iterator[Tensor]:
            for stream in streams:
                for images, _ in stream.blocks(size):
                    yield features.pooling(images).view(len(images), cells, -1, d).cpu()

        targets = torch.cat([y for stream in streams for _, y in stream.blocks(size)])
        targets, gates = targets.double().cpu(), features.gates.double().cpu()
        if 4 * len(targets) * places * d <= KEPT_BYTES:
            kept = list(blocks())
            return cls(gates, targets, cells, lambda: kept)
        return cls(gates, targets, cells, blocks)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and patches (b, cells, q, d) of every block, in float64."""
        start = 0
        for patches in self.stored():
            yield slice(start, start + len(patches)), patches.double()
            start += len(patches)


def _images_per_block(patches: int, gates: int) -> int:
    return max(2, BLOCK_ELEMENTS // (patches * gates))
