"""Small rows gathered while large blocks come and go."""

from __future__ import annotations

from torch import Tensor


class GrowingRows:
    """Rows (n, k) in one piece of memory that doubles where it is too short.

    A list of small tensors would do, but for memory: each is cut from the hole that the last large
    block left, into which the next block no longer fits, so that every block takes new memory.
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None
        self._count = 0

    def add(self, block: Tensor) -> None:
        """Append rows (b, k), which are copied."""
        end = self._count + len(block)
        if self._held is None or end > len(self._held):
            longer = block.new_empty(2 * end, *block.shape[1:])
            longer[: self._count] = self.rows if self._count else 0
            self._held = longer
        self._held[self._count : end] = block
        self._count = end

    @property
    def rows(self) -> Tensor:
        """All rows so far; at least one has to be there."""
        assert self._held is not None, "no row was added"
        return self._held[: self._count]
