"""The maps between two blocks: computed once, kept as float16 in memory or in a temporary file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.errors import RunError
from convexcnn.patches.stream import ImageStream

MAPPED_AT_ONCE = 32
"""Images whose maps are computed at once, always the same ones: rounding depends on it."""

FLAT = 1e-12
"""Variance, relative to the mean square, below which a channel counts as constant."""


@dataclass(frozen=True)
class MapRows:
    """Some rows of an array of maps, which is read only where it is asked for.

    Args:
        maps: (N, channels, height, width) float16, perhaps in a file.
        rows: (n,) which of them.
    """

    maps: NDArray[np.float16]
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.maps.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> NDArray[np.float16]:
        found: NDArray[np.float16] = self.maps[self.rows[rows]]
        return found

    def subset(self, rows: slice | NDArray[np.intp]) -> MapRows:
        return MapRows(self.maps, self.rows[rows])


@dataclass(frozen=True)
class MapStream(ImageStream):
    """A stream of maps. Those of a mirror image are no mirror images: they are kept too.

    Args:
        images: maps of the images; the other arguments are those of :class:`ImageStream`.
        mirror_maps: maps of their mirror images; needed if ``mirror``.
    """

    images: MapRows
    mirror_maps: MapRows | None = None

    def mirrored(self, rows: slice | NDArray[np.int64], images: Tensor) -> Tensor:
        assert self.mirror_maps is not None, "a mirrored stream has maps of mirror images"
        return torch.from_numpy(self.scaler.transform(self.mirror_maps[rows])).to(self.device)

    def subset(self, rows: slice | NDArray[np.intp]) -> MapStream:
        mirror_maps = None if self.mirror_maps is None else self.mirror_maps.subset(rows)
        images, labels = self.images.subset(rows), self.labels[rows]
        return replace(self, images=images, mirror_maps=mirror_maps, labels=labels)


def map_bytes(stream: ImageStream, shape: tuple[int, int, int]) -> int:
    """Bytes of the maps (channels, height, width) of every image of a stream."""
    return 2 * len(stream) * int(np.prod(shape))


def freeze_maps(
    stream: ImageStream,
    shape: tuple[int, int, int],
    maps_of: Callable[[Tensor], Tensor],
    scaler: ImageScaler | NDArray[np.intp],
    *,
    in_memory: bool,
    tell: Callable[[int], None] | None = None,
) -> MapStream:
    """Compute the maps of all images of a stream.

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
    n = len(stream.images)
    copies = [_allocate((n, *shape), in_memory) for _ in range(1 + stream.mirror)]
    fitted = np.zeros(n, bool)
    if not isinstance(scaler, ImageScaler):
        fitted[scaler] = True
    moments = torch.zeros(2, shape[0], dtype=torch.float64)
    for start in range(0, n, MAPPED_AT_ONCE):
        rows = slice(start, start + MAPPED_AT_ONCE)
        images, _ = stream.block(rows)
        found = [maps_of(images)]
        if stream.mirror:
            found.append(maps_of(stream.mirrored(rows, images)))
        for copy, maps in zip(copies, found, strict=True):
            copy[rows] = maps.cpu().numpy()
            values = maps.cpu()[torch.from_numpy(fitted[rows])].double()
            moments += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        if tell is not None:
            tell(start + len(images))
    if not isinstance(scaler, ImageScaler):
        pixels = len(copies) * int(fitted.sum()) * shape[1] * shape[2]
        scaler = _scaler_of(moments / pixels)
    every = np.arange(n)
    return MapStream(
        MapRows(copies[0], every),
        stream.labels,
        stream.n_classes,
        scaler,
        stream.mirror,
        stream.device,
        MapRows(copies[1], every) if stream.mirror else None,
    )


def standardise(maps: Tensor, scaler: ImageScaler) -> Tensor:
    """Standardise maps (b, channels, height, width) where they are, to the bits of a stream."""
    mean = torch.tensor(scaler.mean, dtype=torch.float32, device=maps.device)
    inverse = torch.tensor(1 / np.asarray(scaler.scale), dtype=torch.float32, device=maps.device)
    return (maps.float() - mean[:, None, None]) * inverse[:, None, None]


def _scaler_of(moments: Tensor) -> ImageScaler:
    """Mean and standard deviation of channels from their first two moments (2, channels)."""
    mean, square = moments
    variance = square - mean.square()
    scale = torch.where(variance > FLAT * square, variance.clamp_min(0).sqrt(), 1.0)
    return ImageScaler(tuple(mean.tolist()), tuple(scale.tolist()))


def _allocate(shape: tuple[int, ...], in_memory: bool) -> NDArray[np.float16]:
    """Room for maps; a file has no name, so it goes when its last array goes, whatever happens."""
    if in_memory:
        return np.empty(shape, np.float16)
    needed, folder = 2 * int(np.prod(shape)), tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"the maps of a block need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB "
            f"left; set TMPDIR to a larger disk, raise memory_gb, or lower n_neurons"
        )
    try:
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, np.float16, "w+", shape=shape)
    except OSError as error:
        raise RunError(
            f"{folder}: the maps of a block cannot be written ({error.strerror}); set TMPDIR to "
            f"another disk, or raise memory_gb"
        ) from error
