"""A memory budget, and what of it solvers, features and maps may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from convexcnn.data.limits import budget_bytes
from convexcnn.data.rows import ImageRows, held_bytes
from convexcnn.errors import SettingError
from convexcnn.models.frozen_maps import MapStream
from convexcnn.patches.stream import ImageStream

PROGRAM_GB = 0.6
"""Python, torch and this package, once they have trained anything."""

WORKING_GB = 0.3
"""Blocks of images on their way, their patches, and products that do not grow with the images.

Mini-batches of large images take more; they are counted instead."""

MAPS_SHARE = 0.6
"""Part of what is left that maps and features of blocks may take; others go to a file."""

WITH_TEST_IMAGES = 1.25
"""The images in memory over those that train: a fifth of them is usually kept for testing."""

LEAST_SHARE = 0.25
"""Without a budget at least this part of the usual one is left, however small the machine."""


MOST_GB = 1e9
"""More memory than any machine has: a budget beyond it is a slip."""


@dataclass
class MemoryPlan:
    """What is left of a memory budget: everything whose size grows with the images asks here.

    The answers follow from sizes, not from what the machine happens to hold, so that an interrupted
    training that goes on is given the same ones.

    Args:
        usable_gb: of the budget, beside the program and the images in memory.
        kept: bytes of maps and features in memory.
    """

    usable_gb: float
    kept: int = field(default=0)

    @classmethod
    def of(
        cls,
        memory_gb: float | None,
        images: ImageRows,
        scores: int = 0,
        descent_gb: float = 0.0,
    ) -> MemoryPlan:
        """The plan of a training on images.

        Args:
            memory_gb: what the whole process may use; None for a part of the machine's memory.
            images: the training images, in memory or in a file.
            scores: numbers that are kept of all images until the end, in float32.
            descent_gb: what mini-batches take while filters are learned.

        Raises:
            SettingError: nothing would be left; it says how much that takes.
        """
        return cls.beside_images(memory_gb, held_bytes(images), scores, descent_gb)

    @classmethod
    def beside_images(
        cls,
        memory_gb: float | None,
        image_bytes: float,
        scores: int = 0,
        descent_gb: float = 0.0,
    ) -> MemoryPlan:
        """The plan of a training on images that take so many bytes of memory.

        Raises:
            SettingError: nothing would be left; it says how much that takes.
        """
        if memory_gb is not None and not 0 < memory_gb <= MOST_GB:
            raise SettingError(
                f"memory_gb is {memory_gb}; give a positive number, at most {MOST_GB:g}"
            )
        total = 1e-9 * budget_bytes(memory_gb)
        taken = PROGRAM_GB + max(WORKING_GB, descent_gb)
        taken += 1e-9 * WITH_TEST_IMAGES * image_bytes + 4e-9 * scores
        usable = total - taken
        if memory_gb is None:
            usable = max(usable, LEAST_SHARE * total)
        if usable <= 0:
            raise SettingError(
                f"memory_gb is {memory_gb:g}, and Python, torch and these images take {taken:.2f}; "
                "give more than that"
            )
        return cls(usable)

    def beside(self, stream: ImageStream) -> MemoryPlan:
        """The plan of a block beside the maps that it sees."""
        kept = 0
        if isinstance(stream, MapStream):
            kept = sum(held_bytes(maps) for maps in (stream.images, *stream.view_maps))
        return MemoryPlan(self.usable_gb, kept)

    def keeps(self, n_bytes: int) -> bool:
        """Whether so many bytes of maps or features may be in memory; they are kept if so."""
        fits = 1e-9 * (self.kept + n_bytes) <= MAPS_SHARE * self.usable_gb
        self.kept += n_bytes if fits else 0
        return fits

    @property
    def solver_gb(self) -> float:
        """What a solver may use beside what is kept."""
        return self.usable_gb - 1e-9 * self.kept

    @property
    def least_solver_gb(self) -> float:
        """What a solver may use whatever else is kept."""
        return (1 - MAPS_SHARE) * self.usable_gb
