"""The views of an image that train beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Augmentation:
    """Further views of every training image.

    Args:
        mirror: whether there are mirror images.
        shifts: how many shifted views there are.
    """

    mirror: bool = False
    shifts: int = 0

    @property
    def views(self) -> int:
        """Of every image, itself counted."""
        return (1 + self.mirror) * (1 + self.shifts)

    @property
    def paired(self) -> Augmentation:
        """What the programs of stacks see: beside mirror images no shifted ones."""
        return replace(self, shifts=0) if self.mirror else self


AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(mirror=True),
    "crop": Augmentation(shifts=1),
    "flip+crop": Augmentation(mirror=True, shifts=1),
}
"""Views by name."""
