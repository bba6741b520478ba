"""Images on their way to a solver: scaled, in blocks, with mirrored and shifted views if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.data.rows import ImageRows, view_rows
from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import DataError

BLOCK_VALUES = 2**24
"""Numbers in a block of images: 67 MB, as long as one image does not hold more."""

SHIFT_SHARE = 1 / 16
"""Part of a side by which a shifted view lies elsewhere, at most."""


def largest_shift(share: float, shape: tuple[int, ...]) -> int:
    """Pixels that images (..., height, width) are shifted by at most: such a share of their side.

    One at least, but for images of which that would leave less than a pixel on every side.
    """
    side = min(shape[-2:])
    return min(max(1, int(share * side)), (side - 1) // 2)


def whole(images: int) -> slice:
    """All images of a mini-batch."""
    return slice(0, images)


MiniBatch = tuple[int, Iterator[tuple[Tensor, Tensor]]]
"""How many images it has, and these with their targets, piece by piece, to be read once."""


def pieces(images: int, at_once: int) -> Iterator[slice]:
    """Where so many images lie, some at a time; one piece of none if there are none."""
    return (slice(start, start + at_once) for start in range(0, max(1, images), at_once))


@dataclass(frozen=True)
class ImageStream:
    """Labelled images that are scaled block by block, so that only pixels are ever stored.

    Args:
        images: (n, channels, height, width), uint8 or float32, an array or what is read like one.
        labels: (n,) integers in 0..k-1.
        n_classes: k.
        scaler: fitted standardisation.
        mirror: whether every view is followed by its left-right mirror image.
        shifts: how many randomly shifted views follow every image; what a shift brings into view
            is the mean colour. The stream has ``views`` n rows, those of an image in a row.
        device: where blocks are delivered.
        places: (n,) where every image was before subsets were taken, which decides its shifts;
            None where none were.
        weights: (n,) positive weights of the images in the loss; None where all weigh one.
        processes: that share the images. Each can ask for any of them, and walks through ``own``.
        cuts: where the shares of the processes begin, and the last one ends; None for even ones.
    """

    images: ImageRows
    labels: NDArray[np.int64]
    n_classes: int
    scaler: ImageScaler
    mirror: bool = False
    device: str = "cpu"
    shifts: int = 0
    weights: NDArray[np.float64] | None = field(default=None, kw_only=True)
    places: NDArray[np.intp] | None = field(default=None, kw_only=True)
    processes: Processes = field(default=ALONE, kw_only=True)
    cuts: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def own(self) -> slice:
        """The images that this process walks through: all, unless several share them."""
        cuts, rank = self.cuts or self.processes.cuts(len(self.images)), self.processes.rank
        return slice(cuts[rank], cuts[rank + 1])

    def require_shares(self) -> None:
        """Raise DataError if a process has no image of its own."""
        cuts = self.cuts or self.processes.cuts(len(self.images))
        if min(later - cut for cut, later in pairwise(cuts)) < 1:
            raise DataError(
                f"{len(self.images)} training images are too few for {self.processes.size} "
                "processes; start fewer processes"
            )

    @property
    def own_rows(self) -> slice:
        """The rows of these images in all their views."""
        return slice(self.own.start * self.views, self.own.stop * self.views)

    @property
    def size(self) -> int:
        """Number of these rows."""
        return int(self.own_rows.stop) - int(self.own_rows.start)

    def gather(self, rows: Tensor) -> Tensor:
        """What all processes have of all rows (n, ...), from its own rows of each."""
        return self.processes.gather(rows, len(self), self.own_rows)

    @property
    def views(self) -> int:
        """Views of every image; the first is the image itself, the second its mirror image."""
        return (1 + self.mirror) * (1 + self.shifts)

    def __len__(self) -> int:
        return len(self.images) * self.views

    @property
    def total(self) -> float:
        """Sum of the weights of all rows."""
        if self.weights is None:
            return len(self)
        return float(self.weights.sum()) * self.views

    def roots(self) -> Tensor | None:
        """Square roots of the weights of its own rows (rows, 1), float64; None without weights."""
        if self.weights is None:
            return None
        roots = torch.from_numpy(np.sqrt(self.weights[self.own]))[:, None].to(self.device)
        return roots.repeat_interleave(self.views, 0)

    def block(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Scaled images (b, channels, height, width) and one-hot targets (b, k), not mirrored."""
        images = torch.from_numpy(self.scaler.transform(self.images[rows])).to(self.device)
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        return images, torch.nn.functional.one_hot(labels, self.n_classes).float()

    def images_of(self, numbers: int) -> int:
        """How many images hold so many numbers, one at least."""
        return max(1, numbers // max(1, int(np.prod(self.images.shape[1:]))))

    def random_rows(
        self, most: int, generator: torch.Generator, numbers: int = 2**25
    ) -> NDArray[np.int64]:
        """Rows to sample: at most so many, and at most so many numbers in all of them."""
        order: NDArray[np.int64] = torch.randperm(len(self.images), generator=generator).numpy()
        return order[: min(most, self.images_of(numbers))]

    def sample(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As ``block``, of any rows: all processes ask for the same ones, at the same time."""
        return self.block(rows)

    def view(self, rows: slice | NDArray[np.int64], images: Tensor, number: int) -> Tensor:
        """One view of the rows whose images are given; the same whenever it is asked for."""
        shift, mirrored = divmod(number, 1 + self.mirror)
        if shift:
            offsets = torch.from_numpy(self._offsets[rows, shift - 1])
            images = shifted(images, offsets.to(images.device))
        return images.flip(3) if mirrored else images

    def random_pieces(
        self, rows: NDArray[np.int64], own: slice, generator: torch.Generator, at_once: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``block``, of an own part of the rows, each in a random view, drawn for all of them.

        Shifts need not be those of views. Yields at most ``at_once`` images at a time, and no
        images once if there are none.
        """
        offsets = mirrored = None
        if self.shifts:
            largest = self._largest_shift
            offsets = torch.randint(2 * largest + 1, (len(rows), 2), generator=generator)[own]
            offsets -= largest
        if self.mirror:
            mirrored = torch.rand(len(rows), generator=generator)[own] < 0.5
        chosen = rows[own]
        for part in pieces(len(chosen), at_once):
            images, targets = self.block(chosen[part])
            if offsets is not None:
                images = shifted(images, offsets[part].to(images.device))
            if mirrored is not None:
                turned = mirrored[part].to(images.device)[:, None, None, None]
                images = torch.where(turned, images.flip(3), images)
            yield images, targets

    @property
    def _largest_shift(self) -> int:
        return largest_shift(SHIFT_SHARE, self.images.shape)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """Rows and columns, (n, shifts, 2), by which the shifted views lie elsewhere."""
        places = np.arange(len(self.images)) if self.places is None else self.places
        size = int(places.max(initial=-1)) + 1, self.shifts, 2
        generator, largest = np.random.default_rng(0), self._largest_shift
        every: NDArray[np.int64] = generator.integers(-largest, largest, size, endpoint=True)
        return every[places]

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield its own rows in order, in blocks of at most ``size``, never parting views.

        Blocks of large images are smaller, so that they hold at most ``BLOCK_VALUES`` numbers.
        The order does not depend on ``size``: solvers walk through a stream in several sizes.
        """
        step, end = max(1, min(size, self.images_of(BLOCK_VALUES)) // self.views), self.own.stop
        for start in range(self.own.start, end, step):
            rows = slice(start, min(start + step, end))
            images, targets = self.block(rows)
            if self.views > 1:
                views = [self.view(rows, images, number) for number in range(self.views)]
                images = torch.stack(views, 1).flatten(0, 1)
                targets = targets.repeat_interleave(self.views, 0)
            yield images, targets

    def shuffled(
        self, size: int, generator: torch.Generator, *, share: Callable[[int], slice] = whole
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of mini-batches in random order, each in a random view.

        Args:
            size: of a mini-batch.
            generator: of the order and the views; the same in all processes.
            share: the part of so many images of a mini-batch that this process gets.
        """
        for _, parts in self.mini_batches(size, generator, share=share, at_once=size):
            yield next(parts)

    def mini_batches(
        self,
        size: int,
        generator: torch.Generator,
        *,
        share: Callable[[int], slice] = whole,
        at_once: int,
    ) -> Iterator[MiniBatch]:
        """Yield the mini-batches of ``shuffled``, of at most ``at_once`` images at a time."""
        order = torch.randperm(len(self.images), generator=generator).numpy()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            own = share(len(rows))
            yield len(rows[own]), self.random_pieces(rows, own, generator, at_once)

    def subset(self, rows: slice | NDArray[np.intp]) -> ImageStream:
        """The same stream over some of the images, in the same views; no pixels are copied."""
        weights = None if self.weights is None else self.weights[rows]
        places = np.arange(len(self.images)) if self.places is None else self.places
        return replace(
            self,
            images=view_rows(self.images, rows),
            labels=self.labels[rows],
            weights=weights,
            places=places[rows],
            cuts=self.cuts_of(rows),
        )

    def cuts_of(self, rows: slice | NDArray[np.intp]) -> tuple[int, ...] | None:
        """The cuts of some of the images, in ascending order: every process keeps its own."""
        if self.processes.size == 1:
            return None
        chosen = np.arange(len(self.images))[rows]
        cuts = self.cuts or self.processes.cuts(len(self.images))
        return tuple(np.searchsorted(chosen, cuts).tolist())

    def paired(self) -> ImageStream:
        """The images in two views at most: beside their mirror images no shifted ones."""
        return replace(self, shifts=0) if self.mirror else self

    def plain(self) -> ImageStream:
        """The images alone, without further views."""
        return replace(self, mirror=False, shifts=0)


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Move every image (n, channels, height, width) by its offset (n, 2) of rows and columns.

    What comes into view is 0, the mean of scaled pixels.
    """
    reach = int(offsets.abs().max()) if len(offsets) else 0
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + reach - offsets[:, :1]
    columns = torch.arange(width, device=images.device) + reach - offsets[:, 1:]
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
