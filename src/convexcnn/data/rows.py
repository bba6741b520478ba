"""Images that are read row by row wherever they lie: in memory, in a file, or some of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

VALUES_AT_ONCE = 2**22
"""Numbers that a pass over images has in memory, so that it needs as much for any number."""

RowIndex: TypeAlias = slice | NDArray[np.intp]


@runtime_checkable
class ImageRows(Protocol):
    """An array (n, channels, height, width), or what is read like one: ``rows[index]`` is one.

    ``numpy.asarray`` reads all of it.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...

    def __array__(self, dtype: Any = None, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class RowView:
    """Some rows of others, which are read only where they are asked for.

    Args:
        source: (N, ...), an array or what is read like one.
        rows: (n,) which of them.
        axes: order of the axes of what is read, the first one 0; None leaves it.
        first: number of the first row of ``source``: a process may have only those of its own.
    """

    source: ImageRows
    rows: NDArray[np.intp]
    axes: tuple[int, ...] | None = None
    first: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        each = self.source.shape[1:]
        if self.axes is not None:
            each = tuple(each[axis - 1] for axis in self.axes[1:])
        return len(self.rows), *each

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        found: NDArray[Any] = self.source[self.rows[rows] - self.first]
        return found if self.axes is None else found.transpose(self.axes)

    def __array__(
        self, dtype: DTypeLike | None = None, /, *, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def subset(self, rows: RowIndex) -> RowView:
        """Some of these rows."""
        return RowView(self.source, self.rows[rows], self.axes, self.first)


def take_rows(images: ImageRows, rows: RowIndex) -> ImageRows:
    """Some rows: of an array in memory an array, of anything else a view that reads later."""
    if isinstance(images, np.ndarray):
        found: NDArray[Any] = images[rows]
        return found
    return view_rows(images, rows)


def view_rows(images: ImageRows, rows: RowIndex) -> RowView:
    """A view of some rows, whatever they are rows of: nothing is copied."""
    if isinstance(images, RowView):
        return images.subset(rows)
    return RowView(images, np.arange(len(images))[rows])


def row_blocks(images: ImageRows, most: int = 2**62) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield all rows in order, as many at a time as hold ``VALUES_AT_ONCE``, ``most`` at most."""
    each = max(1, int(np.prod(images.shape[1:])))
    step = max(1, min(most, VALUES_AT_ONCE // each))
    for start in range(0, len(images), step):
        rows = slice(start, min(start + step, len(images)))
        yield rows, images[rows]


def held_bytes(images: ImageRows) -> int:
    """Bytes of memory that rows hold: those of their array, or none if they are in a file."""
    source = images.source if isinstance(images, RowView) else images
    return source.nbytes if isinstance(source, np.ndarray) else 0
