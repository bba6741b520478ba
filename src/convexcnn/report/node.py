"""A checked walk through parsed JSON: every wrong or missing entry is named by its place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convexcnn.errors import RunError

INFINITE = (math.inf, -math.inf)
LARGEST_NUMBER = 1e100
"""Finite ones above it cannot be drawn: the arithmetic of a chart's axes overflows."""

ROUNDING = 1e-6
"""By which a weighted mean of fractions may leave 0 to 1."""

LARGEST_WHOLE = 2**63 - 1
"""Of whole numbers, which end up in arrays."""


@dataclass(frozen=True)
class Node:
    """One entry of a JSON document that knows where it stands."""

    file: Path
    place: str
    value: object

    def wrong(self, expected: str) -> RunError:
        """The error for an entry that is not what the format says."""
        where = self.place or "the document"
        shown = repr(self.value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return RunError(
            f"{self.file}: {where} should be {expected}, not {shown}; "
            "restore the file, or train again with --overwrite"
        )

    def mapping(self) -> dict[str, object]:
        """The entry as a mapping."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def __getitem__(self, key: str) -> Node:
        place = f"{self.place}.{key}" if self.place else key
        entries = self.mapping()
        if key not in entries:
            raise RunError(
                f"{self.file}: {place} is missing; "
                "restore the file, or train again with --overwrite"
            )
        return Node(self.file, place, entries[key])

    def optional(self, key: str) -> Node | None:
        """The entry under a key, or None where it is absent or null."""
        return self[key] if self.mapping().get(key) is not None else None

    def items(self) -> Iterator[Node]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        for position, value in enumerate(self.value):
            yield Node(self.file, f"{self.place}[{position}]", value)

    def number(self) -> float:
        """The entry as a float; not-a-number is kept, for the page to show as a dash."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        # compared first: Python makes no float of a whole number of more than 308 digits
        if self.value not in INFINITE and abs(self.value) > LARGEST_NUMBER:
            raise self.wrong("a number that is not as large")
        return float(self.value)

    def fraction(self) -> float:
        """The entry as a float from 0 to 1, as accuracies are; not-a-number is kept."""
        number = self.number()
        if number < -ROUNDING or number > 1 + ROUNDING:
            raise self.wrong("a number from 0 to 1")
        return number

    def integer(self) -> int:
        """The entry as an int."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong("a whole number")
        if abs(self.value) > LARGEST_WHOLE:
            raise self.wrong("a whole number that is not as large")
        return self.value

    def text(self) -> str:
        """The entry as a string."""
        if not isinstance(self.value, str):
            raise self.wrong("a string")
        return self.value.encode("utf-8", "replace").decode()  # JSON may hold half a character
