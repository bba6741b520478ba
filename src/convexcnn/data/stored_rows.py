"""Arrays in files whose rows are read when they are asked for, and checked when they are ours.

Files are read, not mapped: pages of a mapped file count as memory of the process, and an error of
the disk under one ends it with a signal instead of a message.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convexcnn.data.limits import check_fits
from convexcnn.data.rows import ImageRows, held_bytes, row_blocks
from convexcnn.errors import ConvexcnnError, RunError

FEWER = "or use fewer or smaller images"


class FileRows:
    """An array (n, ...) in a file, in C order.

    Args:
        file: open for reading; the caller may close it.
        shape: (n, ...).
        dtype: of the numbers.
        offset: bytes before the first one.
        name: what errors call the file.

    Raises:
        ConvexcnnError: of the class ``error``, when the file is read and turns out to be shorter
            than it was, or to have been written to.
    """

    error: type[ConvexcnnError] = RunError
    advice = "leave files alone that are being read, and start again"

    def __init__(
        self, file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike, offset: int, name: str
    ) -> None:
        self.descriptor, self.name, self.offset = os.dup(file.fileno()), name, offset
        weakref.finalize(self, os.close, self.descriptor)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * math.prod(shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """The rows of a slice, of an array of indices or of booleans, or one row."""
        index = self._index(rows)
        raw = np.empty((len(index), self.row_bytes), np.uint8)
        for at, first, count in _runs(index):
            self._read(raw[at : at + count], first)
        self._verify(index, raw)
        found = raw.reshape(-1).view(self.dtype).reshape(len(index), *self.shape[1:])
        return found[0] if np.ndim(rows) == 0 and not isinstance(rows, slice) else found

    def __array__(
        self, dtype: DTypeLike | None = None, /, *, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _index(self, rows: Any) -> NDArray[np.intp]:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        index = np.atleast_1d(np.asarray(rows))
        if index.dtype == bool:
            return np.flatnonzero(index)
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows")
        return np.where(index < 0, index + len(self), index).astype(np.intp)

    def _read(self, out: NDArray[np.uint8], first: int) -> None:
        """Fill ``out`` (b, row_bytes) with rows from ``first`` on."""
        view, start = out.reshape(-1).data, self.offset + first * self.row_bytes
        done = 0
        while done < len(view):
            try:
                read = os.preadv(self.descriptor, [view[done:]], start + done)
            except OSError as error:
                raise self._broken(f"cannot be read ({error.strerror})") from error
            if not read:
                raise self._broken("has become shorter than it was")
            done += read

    def _verify(self, index: NDArray[np.intp], raw: NDArray[np.uint8]) -> None:
        """Check what was read; a file that is not ours can only be checked for its length."""

    def _broken(self, problem: str) -> ConvexcnnError:
        return self.error(f"{self.name} {problem}; {self.advice}")


class StoredRows(FileRows):
    """An array in a temporary file of this process, with a checksum per row.

    The file has no name in its folder, so it goes with the process, however that ends. Its room on
    the disk is taken at once: a disk that is too small is found before any work. Every row is
    checked when it is read for the first time.

    Args:
        shape: (n, ...).
        dtype: of the numbers.
        what: the rows, in words, for errors.
        advice: what to do if the disk is too small.

    Raises:
        RunError: the disk has no room; and when rows are read, if they are not what was written.
    """

    advice = "the disk or its memory is failing: check it, or set TMPDIR to another one"

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, what: str, advice: str) -> None:
        folder = tempfile.gettempdir()
        size = np.dtype(dtype).itemsize * math.prod(shape)
        try:
            with tempfile.TemporaryFile() as file:
                super().__init__(file, shape, dtype, 0, f"the temporary file of {what} in {folder}")
            if size:
                _take_room(self.descriptor, size)
        except OSError as error:
            raise RunError(
                f"{folder} cannot hold {what}, {size / 1e9:.2g} GB ({error.strerror}); set TMPDIR "
                f"to a larger disk, {advice}"
            ) from error
        self.checksums = np.zeros(shape[0], np.uint32)
        self.checked = np.zeros(shape[0], bool)

    def __setitem__(self, rows: slice, values: NDArray[Any]) -> None:
        """Write consecutive rows, (b, ...)."""
        start, stop, _ = rows.indices(len(self))
        every = np.ascontiguousarray(values, self.dtype).reshape(stop - start, -1)
        raw = every.view(np.uint8)
        view, done = raw.reshape(-1).data, 0
        while done < len(view):
            try:
                done += os.pwrite(self.descriptor, view[done:], start * self.row_bytes + done)
            except OSError as error:
                raise self._broken(f"cannot be written ({error.strerror})") from error
        self.checksums[start:stop] = [zlib.crc32(row.data) for row in raw]
        self.checked[start:stop] = False

    def _verify(self, index: NDArray[np.intp], raw: NDArray[np.uint8]) -> None:
        for at in np.flatnonzero(~self.checked[index]):
            if zlib.crc32(raw[at].data) != self.checksums[index[at]]:
                raise self._broken(f"has changed: row {index[at]} is not what was written")
        self.checked[index] = True


def _take_room(descriptor: int, size: int) -> None:
    """Make a file so large that writing it cannot meet a full disk.

    What the disk has no room for is refused before others feel that it is full.
    """
    disk = os.fstatvfs(descriptor)
    if size > disk.f_bavail * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _runs(index: NDArray[np.intp]) -> Iterator[tuple[int, int, int]]:
    """Split indices into runs of consecutive ones: (place, first index, length)."""
    if not len(index):
        return
    starts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist()]
    for at, end in zip(starts, [*starts[1:], len(index)], strict=True):
        yield at, int(index[at]), end - at


def room_for(
    shape: tuple[int, ...], dtype: DTypeLike, room: float | None, what: str
) -> NDArray[Any] | StoredRows:
    """Room for decoded images: in memory up to ``room`` bytes, else in a temporary file.

    Raises:
        DataError: ``room`` is None, for all of the machine's memory, and they do not fit there.
        RunError: the disk has no room.
    """
    size = np.dtype(dtype).itemsize * math.prod(shape)
    if room is None:
        check_fits(size, what)
    in_memory = room is None or size <= room
    return allocate_rows(shape, dtype, in_memory=in_memory, what=what, advice=FEWER)


def stored_copy(images: ImageRows) -> ImageRows:
    """The same rows in a temporary file, unless they are in a file already."""
    if not held_bytes(images):
        return images
    copy = StoredRows(images.shape, images.dtype, f"{len(images)} images", FEWER)
    for rows, block in row_blocks(images):
        copy[rows] = block
    return copy


def allocate_rows(
    shape: tuple[int, ...], dtype: DTypeLike, *, in_memory: bool, what: str, advice: str
) -> NDArray[Any] | StoredRows:
    """Room for rows that are written in order, in memory or in a temporary file.

    Raises:
        RunError: the disk has no room.
    """
    return np.empty(shape, dtype) if in_memory else StoredRows(shape, dtype, what, advice)
