"""A folder of arrays, ``images.npy`` and ``labels.npy``, whose images stay in their file."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from convexcnn.data.arrays import dataset_from_arrays
from convexcnn.data.dataset import ImageDataset, check_finite
from convexcnn.data.limits import check_fits
from convexcnn.data.listing import class_names
from convexcnn.data.rows import ImageRows, RowView, row_blocks
from convexcnn.data.stored_rows import FileRows
from convexcnn.errors import DataError

IMAGES, LABELS, TEST = "images.npy", "labels.npy", "test_"
LAYOUT = "write it with numpy.save(path, array)"
MOST_HEADER_BYTES = 2**16
"""Of the beginning of a file, in which its header must end."""
CHANNELS_FIRST = 0, 3, 1, 2


class NpyRows(FileRows):
    """The images of a .npy file, read where they lie, never all at once.

    Args:
        path: the file; (n, channels, height, width), (n, height, width, channels) or
            (n, height, width), uint8 or float32, in C order.

    Raises:
        DataError: another kind of file; and when rows are read, if it has changed since.
    """

    error = DataError
    advice = "leave it alone while it is being read, and start again"

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            shape, dtype, start = _header(path, file)
            whole = (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape
            super().__init__(file, whole, dtype, start, str(path))
        if dtype not in (np.uint8, np.float32) or len(shape) not in (3, 4) or 0 in shape[1:]:
            raise DataError(
                f"{path}: holds {dtype} of shape {shape}; save images as uint8 or float32, "
                "(n, channels, height, width), (n, height, width, channels) or (n, height, width)"
            )
        self._written = self._stamp()
        needed = self.offset + self.shape[0] * self.row_bytes
        if self._written[0] < needed:
            raise DataError(f"{path}: is cut off, {self._written[0]} bytes of {needed}; {LAYOUT}")

    def _stamp(self) -> tuple[int, int]:
        """Size and time of the last writing."""
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns

    def _verify(self, index: NDArray[np.intp], raw: NDArray[np.uint8]) -> None:
        if self._stamp() != self._written:
            raise self._broken("was written to while it was being read")


def is_array_folder(folder: Path) -> bool:
    """Whether a folder holds images as an array."""
    return (folder / IMAGES).is_file()


def read_array_folder(folder: Path, seed: int = 0) -> ImageDataset:
    """Read a folder with ``images.npy`` and ``labels.npy``; images are read when they are needed.

    ``test_images.npy`` and ``test_labels.npy`` may be there too, and ``classes.txt`` with the name
    of one class per line. Nothing is unpickled.

    Args:
        folder: where they are.
        seed: chooses the split where there are no test images.

    Returns:
        The data set, named after the folder.

    Raises:
        DataError: a file is missing, damaged, or of another kind.
    """
    fields: dict[str, Any] = {}
    for prefix in ("", TEST):
        images, labels = folder / (prefix + IMAGES), folder / (prefix + LABELS)
        if prefix and not images.is_file() and not labels.is_file():
            continue
        if missing := [path for path in (images, labels) if not path.is_file()]:
            raise DataError(f"{missing[0]}: there is no such file; {LAYOUT}")
        fields[f"{prefix}images"] = _images(images)
        fields[f"{prefix}labels"] = _labels(labels)
    if TEST + "images" in fields:
        found, other = fields["images"].dtype, fields[TEST + "images"].dtype
        if found != other:
            raise DataError(f"{folder}: images are {found}, test images {other}; save them alike")
    return dataset_from_arrays(
        **fields,
        classes=class_names(folder),
        name=folder.resolve().name or "arrays",
        source=str(folder),
        seed=seed,
    )


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of an array, and the place of its first number in the file."""
    try:
        head = io.BytesIO(file.read(MOST_HEADER_BYTES))
        version = npy.read_magic(head)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head)
    except Exception as error:  # numpy lets Python read the header, which raises nearly anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a .npy of a plain array ({reason}); {LAYOUT}") from error
    sound = all(type(side) is int and 0 <= side <= sys.maxsize for side in shape)
    if fortran or dtype.hasobject or not dtype.itemsize or not sound:
        raise DataError(f"{path}: is no plain array in C order; {LAYOUT}")
    return shape, dtype, head.tell()


def _images(path: Path) -> ImageRows:
    """Images, channels first; floating-point ones are read through once for NaN and infinity."""
    rows: ImageRows = NpyRows(path)
    if rows.shape[3] in (1, 3) and rows.shape[1] not in (1, 3):
        rows = RowView(rows, np.arange(len(rows)), CHANNELS_FIRST)
    if rows.dtype.kind == "f":
        for block, images in row_blocks(rows):
            check_finite(images, f"{path}, from image {block.start}")
    return rows


def _labels(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        shape, dtype, start = _header(path, file)
        needed = math.prod(shape) * dtype.itemsize
        if start + needed > os.fstat(file.fileno()).st_size:
            raise DataError(f"{path}: is cut off; {LAYOUT}")
        check_fits(needed, str(path))
        file.seek(start)
        try:
            return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {LAYOUT}") from error
