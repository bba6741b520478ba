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
from convexcnn.models.stack_settings import Shape
from convexcnn.patches.stream import ImageStream

MAPPED_AT_ONCE = 32
"""Images whose maps are computed at once, always the same ones: rounding depends on it."""

MAP_SHIFT = 14
"""Pixels of a side for every pixel that maps are shifted by in training."""

FLAT = 1e-12
"""Variance, relative to the mean square, below which a channel counts as constant."""

CHANNELS_FIRST = 0, 3, 1, 2
SMALLER = "raise memory_gb, or lower n_gates"


@dataclass(frozen=True)
class MapStream(ImageStream):
    """A stream of maps. Those of a mirrored or shifted image are no mirrored or shifted maps.

    Args:
        images: maps of the images; the other arguments are those of :class:`ImageStream`.
        view_maps: maps of their further views, one after the other.
    """

    images: RowView
    view_maps: tuple[RowView, ...] = ()

    def block(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        targets = torch.nn.functional.one_hot(labels, self.n_classes).float()
        return self._standardised(self.images, rows), targets

    def view(self, rows: slice | NDArray[np.int64], images: Tensor, number: int) -> Tensor:
        return self._standardised(self.view_maps[number - 1], rows) if number else images

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of mini-batches in random order, each in one of the views.

        With shifted views maps are shifted too, by at most one in fourteen of their pixels.
        """
        every = (self.images, *self.view_maps)[: self.views]
        reach = min(self.images.shape[2:]) // MAP_SHIFT if self.shifts else 0
        order = torch.randperm(len(self.images), generator=generator).numpy()
        for start in range(0, len(order), size):
            number = int(torch.randint(self.views, (), generator=generator))
            rows = order[start : start + size]
            maps, targets = replace(self, images=every[number]).block(rows)
            if reach:
                down, right = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
                maps = moved(maps, down - reach, right - reach)
            yield maps, targets

    def subset(self, rows: slice | NDArray[np.intp]) -> MapStream:
        images, labels = self.images.subset(rows), self.labels[rows]
        view_maps = tuple(maps.subset(rows) for maps in self.view_maps)
        return replace(self, images=images, view_maps=view_maps, labels=labels)

    def _standardised(self, maps: RowView, rows: slice | NDArray[np.int64]) -> Tensor:
        return standardise(torch.from_numpy(maps[rows]).to(self.device), self.scaler)


def map_bytes(stream: ImageStream, shape: Shape) -> int:
    """Bytes of the maps (channels, height, width) of every image of a stream."""
    return 2 * len(stream) * int(np.prod(shape))


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
    """Yield all images in order, a few at a time: their rows, and their views one by one."""
    for start in range(0, len(stream.images), MAPPED_AT_ONCE):
        rows = slice(start, start + MAPPED_AT_ONCE)
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
        size = len(stream.images), height, width, channels
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
            kept[slice(rows.start, rows.start + len(last))] = last.numpy()
            if used.any():
                values = last[used].double().flatten(0, 2)
                self.moments += torch.stack([values.sum(0), values.square().sum(0)])

    def stream(self) -> MapStream:
        """All maps, standardised."""
        every = np.arange(len(self.source.images))
        first, *others = (RowView(maps, every, CHANNELS_FIRST) for maps in self.views)
        scaler = self.scaler
        if not isinstance(scaler, ImageScaler):
            _, height, width = first.shape[1:]
            pixels = len(self.views) * int(self.fitted.sum()) * height * width
            scaler = _scaler_of(self.moments / pixels)
        return MapStream(
            first,
            self.source.labels,
            self.source.n_classes,
            scaler,
            self.source.mirror,
            self.source.device,
            self.source.shifts,
            tuple(others),
        )


def standardise(maps: Tensor, scaler: ImageScaler) -> Tensor:
    """Standardise maps (b, channels, height, width) where they are, to the bits of a stream."""
    mean = torch.tensor(scaler.mean, dtype=torch.float32, device=maps.device)
    inverse = torch.tensor(1 / np.asarray(scaler.scale), dtype=torch.float32, device=maps.device)
    return maps.to(torch.float32, copy=True).sub_(mean[:, None, None]).mul_(inverse[:, None, None])


def moved(maps: Tensor, down: int, right: int) -> Tensor:
    """Move maps (n, channels, height, width) together; what comes into view is 0, the mean."""
    out = torch.zeros_like(maps)
    height, width = maps.shape[2:]
    to = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    at = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
    out[:, :, to[0], to[1]] = maps[:, :, at[0], at[1]]
    return out


def _scaler_of(moments: Tensor) -> ImageScaler:
    """Mean and standard deviation of channels from their first two moments (2, channels)."""
    mean, square = moments
    variance = square - mean.square()
    scale = torch.where(variance > FLAT * square, variance.clamp_min(0).sqrt(), 1.0)
    return ImageScaler(tuple(mean.tolist()), tuple(scale.tolist()))
