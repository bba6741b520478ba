"""The maps between two blocks: computed once, kept as float16 in memory or in a temporary file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.data.rows import RowView
from convexcnn.data.stored_rows import allocate_rows
from convexcnn.distributed import BLOCK
from convexcnn.models.stack_settings import Shape
from convexcnn.patches.stream import ImageStream, pieces

MAPPED_AT_ONCE = BLOCK
"""Images whose maps are computed at once, always the same ones: rounding depends on it."""

FLAT = 1e-12
"""Variance, relative to the mean square, below which a channel counts as constant."""

CHANNELS_FIRST = 0, 3, 1, 2
SMALLER = "raise memory_gb, or lower n_gates"


@dataclass(frozen=True)
class MapStream(ImageStream):
    """A stream of maps. Those of a mirrored or shifted image are no mirrored or shifted maps.

    Of several processes, each has the maps of its own images only.

    Args:
        images: maps of the images; the other arguments are those of :class:`ImageStream`.
        view_maps: maps of their further views, one after the other.
    """

    images: RowView
    view_maps: tuple[RowView, ...] = ()

    def block(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return self._standardised(self.images, rows), self._targets(rows)

    def _targets(self, rows: slice | NDArray[np.int64]) -> Tensor:
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        return torch.nn.functional.one_hot(labels, self.n_classes).float()

    def sample(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return self._sampled(0, rows), self._targets(rows)

    def _sampled(self, view: int, rows: slice | NDArray[np.int64]) -> Tensor:
        """One view of any rows: of every one, the process that has it tells the others."""
        maps, numbers = (self.images, *self.view_maps)[view], np.arange(len(self.images))[rows]
        if self.processes.size == 1:
            return self._standardised(maps, rows)
        here = (self.own.start <= numbers) & (numbers < self.own.stop)
        found = torch.zeros(len(numbers), *maps.shape[1:], device=self.device)
        found[torch.from_numpy(here)] = self._standardised(maps, numbers[here])
        self.processes.add_up(found)
        return found

    def view(self, rows: slice | NDArray[np.int64], images: Tensor, number: int) -> Tensor:
        return self._standardised(self.view_maps[number - 1], rows) if number else images

    def random_pieces(
        self, rows: NDArray[np.int64], own: slice, generator: torch.Generator, at_once: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One of the stored views, the same of all rows."""
        number = int(torch.randint(self.views, (), generator=generator))
        chosen = rows[own]
        shared = self._sampled(number, rows)[own] if self.processes.size > 1 else None
        for part in pieces(len(chosen), at_once):
            maps = self._sampled(number, chosen[part]) if shared is None else shared[part]
            yield maps, self._targets(chosen[part])

    def subset(self, rows: slice | NDArray[np.intp]) -> MapStream:
        images, labels = self.images.subset(rows), self.labels[rows]
        view_maps = tuple(maps.subset(rows) for maps in self.view_maps)
        cuts = self.cuts_of(rows)
        return replace(self, images=images, view_maps=view_maps, labels=labels, cuts=cuts)

    def _standardised(self, maps: RowView, rows: slice | NDArray[np.int64]) -> Tensor:
        return standardise(torch.from_numpy(maps[rows]).to(self.device), self.scaler)


def map_bytes(stream: ImageStream, shape: Shape) -> int:
    """Bytes of the maps (channels, height, width) of every own image of a stream."""
    return 2 * stream.size * int(np.prod(shape))


def freeze_maps(
    stream: ImageStream,
    shape: Shape,
    maps_of: Callable[[Tensor], Tensor],
    scaler: ImageScaler | NDArray[np.intp],
    *,
    in_memory: bool,
    tell: Callable[[int], None] | None = None,
) -> MapStream:
    """Compute the maps of all views of all images of a stream.

    Args:
        stream: what the block that makes the maps sees.
        shape: channels, height and width of a map.
        maps_of: scaled images (b, ...) to maps (b, channels, height, width), float16.
        scaler: standardisation of the maps; or the rows to fit it on, channel by channel.
        in_memory: whether to keep the maps in memory instead of a file, which goes with them.
        tell: called with the number of images done.

    Raises:
        RunError: the file cannot be written.
    """
    store = MapStore(stream, shape, scaler, in_memory=in_memory)
    for rows, views in every_view(stream, tell):
        store.write(rows, [maps_of(images) for images in views])
    return store.stream()


def every_view(
    stream: ImageStream, tell: Callable[[int], None] | None = None
) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """Yield its own images in order, a few at a time: their rows, and their views one by one."""
    end = stream.own.stop
    for start in range(stream.own.start, end, MAPPED_AT_ONCE):
        rows = slice(start, min(start + MAPPED_AT_ONCE, end))
        images, _ = stream.block(rows)
        yield rows, (stream.view(rows, images, number) for number in range(stream.views))
        if tell is not None:
            tell(start + len(images))


class MapStore:
    """Maps of all views while they are being computed, channels last as convolutions want them.

    Args:
        stream: what the block that makes the maps sees.
        shape: channels, height and width of a map.
        scaler: standardisation of the maps; or the rows to fit it on, channel by channel.
        in_memory: whether to keep the maps in memory instead of a file, which goes with them.

    Raises:
        RunError: the file cannot be written.
    """

    def __init__(
        self,
        stream: ImageStream,
        shape: Shape,
        scaler: ImageScaler | NDArray[np.intp],
        *,
        in_memory: bool,
    ) -> None:
        self.source, self.scaler = stream, scaler
        self.fitted = np.zeros(len(stream.images), bool)
        if not isinstance(scaler, ImageScaler):
            self.fitted[scaler] = True
        channels, height, width = shape
        self.first = stream.own.start
        size = stream.own.stop - self.first, height, width, channels
        self.views = [
            allocate_rows(
                size, np.float16, in_memory=in_memory, what="the maps of a block", advice=SMALLER
            )
            for _ in range(stream.views)
        ]
        self.moments = torch.zeros(2, channels, dtype=torch.float64)

    def write(self, rows: slice, maps: Sequence[Tensor]) -> None:
        """Keep the maps (b, channels, height, width) of every view of some rows."""
        used = torch.from_numpy(self.fitted[rows])
        for kept, found in zip(self.views, maps, strict=True):
            last = found.permute(0, 2, 3, 1).cpu()
            kept[rows.start - self.first : rows.start - self.first + len(last)] = last.numpy()
            if used.any():
                values = last[used].double().flatten(0, 2)
                self.moments += torch.stack([values.sum(0), values.square().sum(0)])

    def stream(self) -> MapStream:
        """All maps, standardised."""
        source, every = self.source, np.arange(len(self.source.images))
        first, *others = (RowView(maps, every, CHANNELS_FIRST, self.first) for maps in self.views)
        scaler = self.scaler
        if not isinstance(scaler, ImageScaler):
            _, height, width = first.shape[1:]
            pixels = len(self.views) * int(self.fitted.sum()) * height * width
            source.processes.add_up(self.moments)
            scaler = _scaler_of(self.moments / pixels)
        return MapStream(
            first,
            source.labels,
            source.n_classes,
            scaler,
            source.mirror,
            source.device,
            source.shifts,
            tuple(others),
            processes=source.processes,
            cuts=source.cuts,
        )


def standardise(maps: Tensor, scaler: ImageScaler, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standardise maps (b, channels, height, width) where they are, to the bits of a stream."""
    mean = torch.tensor(scaler.mean, dtype=dtype, device=maps.device)
    inverse = torch.tensor(1 / np.asarray(scaler.scale), dtype=dtype, device=maps.device)
    return maps.to(dtype, copy=True).sub_(mean[:, None, None]).mul_(inverse[:, None, None])


def _scaler_of(moments: Tensor) -> ImageScaler:
    """Mean and standard deviation of channels from their first two moments (2, channels)."""
    mean, square = moments
    variance = square - mean.square()
    scale = torch.where(variance > FLAT * square, variance.clamp_min(0).sqrt(), 1.0)
    return ImageScaler(tuple(mean.tolist()), tuple(scale.tolist()))
