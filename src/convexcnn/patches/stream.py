"""Images on their way to a solver: scaled, in blocks, mirrored if asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler


class ImageRows(Protocol):
    """An array of images (n, channels, height, width), or what is read like one, row by row."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class ImageStream:
    """Labelled images that are scaled block by block, so that only pixels are ever stored.

    Args:
        images: (n, channels, height, width), uint8 or float32.
        labels: (n,) integers in 0..k-1.
        n_classes: k.
        scaler: fitted standardisation.
        mirror: whether every image is followed by its left-right mirror image; the stream then
            has 2 n rows.
        device: where blocks are delivered.
        weights: (n,) positive weights of the images in the loss; None where all weigh one.
    """

    images: ImageRows
    labels: NDArray[np.int64]
    n_classes: int
    scaler: ImageScaler
    mirror: bool = False
    device: str = "cpu"
    weights: NDArray[np.float64] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.images) * (1 + self.mirror)

    @property
    def total(self) -> float:
        """Sum of the weights of all rows."""
        if self.weights is None:
            return len(self)
        return float(self.weights.sum()) * (1 + self.mirror)

    def roots(self) -> Tensor | None:
        """Square roots of the weights of all rows (rows, 1), float64; None where all weigh one."""
        if self.weights is None:
            return None
        roots = torch.from_numpy(np.sqrt(self.weights))[:, None].to(self.device)
        return roots.repeat_interleave(2, 0) if self.mirror else roots

    def block(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Scaled images (b, channels, height, width) and one-hot targets (b, k), not mirrored."""
        images = torch.from_numpy(self.scaler.transform(self.images[rows])).to(self.device)
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        return images, torch.nn.functional.one_hot(labels, self.n_classes).float()

    def mirrored(self, rows: slice | NDArray[np.int64], images: Tensor) -> Tensor:
        """The left-right mirror images of the rows whose images are given."""
        return images.flip(3)

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the stream in order, in blocks of at most ``size`` rows (2 at least, mirrored).

        The order does not depend on ``size``: solvers walk through a stream in several sizes.
        """
        step = max(1, size // (1 + self.mirror))
        for start in range(0, len(self.images), step):
            rows = slice(start, start + step)
            images, targets = self.block(rows)
            if self.mirror:
                images = torch.stack([images, self.mirrored(rows, images)], 1).flatten(0, 1)
                targets = targets.repeat_interleave(2, 0)
            yield images, targets

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of mini-batches in random order, each mirrored as a whole or not."""
        order = torch.randperm(len(self.images), generator=generator).numpy()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            images, targets = self.block(rows)
            if self.mirror and torch.rand((), generator=generator) < 0.5:
                images = self.mirrored(rows, images)
            yield images, targets

    def subset(self, rows: slice | NDArray[np.intp]) -> ImageStream:
        """The same stream over some of the images."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], weights=weights)

    def without_mirror(self) -> ImageStream:
        return replace(self, mirror=False)
