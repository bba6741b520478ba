"""The maps of newly augmented images: what descent sees, where exact programs see stored views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.models.frozen_maps import MapStream
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.patches.stream import ImageStream


@dataclass(frozen=True, kw_only=True)
class FreshMaps(MapStream):
    """A stream of maps whose mini-batches are augmented as images, anew in every epoch.

    They are taken through the frozen blocks every time, which costs a part of what learning from
    them does, and no memory; ``blocks`` and ``view`` are those of the stored maps.

    Args:
        pixels: the images that the maps are of.
        earlier: the blocks before, in their order.
        dtype: precision of the maps in mini-batches, and of the convolutions that make them.
    """

    pixels: ImageStream
    earlier: tuple[TrainedBlock, ...]
    dtype: torch.dtype = torch.float32

    def random_pieces(
        self, rows: NDArray[np.int64], own: slice, generator: torch.Generator, at_once: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in self.pixels.random_pieces(rows, own, generator, at_once):
            maps = images.to(self.dtype)
            del images
            for block in self.earlier:
                maps = block.rough_images(maps)
            yield maps, targets
