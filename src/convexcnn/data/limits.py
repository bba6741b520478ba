"""Bounds that keep a damaged or hostile file from filling the memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from convexcnn.data.arguments import check_positive
from convexcnn.distributed import here
from convexcnn.errors import DataError

MAX_IMAGE_PIXELS = 100_000_000
"""The largest image that is decoded: far above any camera, far below a decompression bomb."""

MEMORY_SHARE = 0.6
"""Part of the machine's memory that a training may use by default."""

DATA_SHARE = 0.2
"""Part of a memory budget that decoded images may take; more of them lie in a temporary file."""


GROUP_LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
"""Where Linux says what a container may use."""


def machine_memory() -> int:
    """The machine's physical memory in bytes, or less if a container may not use all of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, GROUP_LIMITS):
        with suppress(OSError, ValueError):  # not there, or the word "max"
            memory = min(memory, int(path.read_text("ascii")))
    return memory


def budget_bytes(memory_gb: float | None) -> float:
    """Bytes that a process may use: what was asked for, or its part of the machine's memory.

    Raises:
        SettingError: what was asked for is no positive number.
    """
    if memory_gb is not None:
        check_positive("memory_gb", memory_gb)
        return 1e9 * memory_gb
    return MEMORY_SHARE * machine_memory() / here()[1]


def check_fits(n_bytes: int, what: str) -> None:
    """Refuse an array that this machine cannot hold.

    Args:
        n_bytes: its size in bytes.
        what: the file or folder it comes from.

    Raises:
        DataError: it is larger than the physical memory.
    """
    memory = machine_memory()
    if n_bytes > memory:
        raise DataError(
            f"{what} holds {n_bytes / 2**30:.1f} GB, more than this machine's memory of "
            f"{memory / 2**30:.1f} GB; use fewer images (--limit) or smaller ones (--image-size)"
        )
