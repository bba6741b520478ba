"""Block by block, what its head looks for: filters as pictures, and images that maximise scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexcnn.report.formatting import count, duration, fixed
from convexcnn.report.map_pictures import Pixels, data_uri, picture_of
from convexcnn.report.maximiser_files import Maximisers

_SIDE = 64  # of a picture on the page, in pixels, at most


@dataclass(frozen=True)
class Tile:
    """An image that maximises something, with the values reached."""

    title: str
    value: str
    starts: str
    alt: str
    data_uri: str


@dataclass(frozen=True)
class ClassTiles:
    """One class of a block: what its score likes best, and what its strongest filters do."""

    number: int
    name: str
    tiles: list[Tile]


@dataclass(frozen=True)
class ExploreView:
    """The tiles of every class, block by block, and the classes to choose from."""

    blocks: list[list[ClassTiles]]
    classes: list[str]
    note: str

    @property
    def choices(self) -> list[tuple[int, str]]:
        """The classes to choose from, by number and name."""
        return list(enumerate(self.classes))

    @property
    def has_filters(self) -> bool:
        """Whether filters of later blocks are among the tiles."""
        return any(len(row.tiles) > 1 for block in self.blocks for row in block)


def explore_view(maximisers: Sequence[Maximisers], classes: Sequence[str]) -> ExploreView | None:
    """Prepare what every block likes best for the page; None if nothing was recorded."""
    if not maximisers:
        return None
    shown = classes[: len(maximisers[0].class_images)]
    seconds = sum(float(block.seconds[0]) for block in maximisers)
    climbs = sum(block.class_values.size + block.filter_values.size for block in maximisers)
    note = f"All {count(climbs)} ascents together took {duration(seconds)}."
    if len(shown) < len(classes):
        note += f" Shown are the first {len(shown)} of {count(len(classes))} classes."
    blocks = [
        [
            ClassTiles(
                c, name, [_score_tile(found, c, name, number), *_filter_tiles(found, c, name)]
            )
            for c, name in enumerate(shown)
        ]
        for number, found in enumerate(maximisers, 1)
    ]
    return ExploreView(blocks, list(shown), note)


def _score_tile(found: Maximisers, c: int, name: str, number: int) -> Tile:
    values = found.class_values[c]
    return Tile(
        title="score",
        value=fixed(float(values.max()), 2),
        starts=_starts(values),
        alt=f"Image that maximises the score of {name} in block {number}",
        data_uri=data_uri(picture_of(found.class_images[c]), _SIDE),
    )


def _filter_tiles(found: Maximisers, c: int, name: str) -> list[Tile]:
    tiles = []
    for j, picture in enumerate(found.filter_images[c]):
        values = found.filter_values[c, j]
        best = float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")
        tiles.append(
            Tile(
                title=f"filter {j + 1}, gate {int(found.filter_gates[c, j]) + 1}",
                value=fixed(best, 1) if np.isfinite(best) else "never open",
                starts=_starts(values, 1),
                alt=f"What filter {j + 1} of {name} likes best, where it looks",
                data_uri=data_uri(_cut(picture, found.filter_boxes[c, j]), _SIDE),
            )
        )
    return tiles


def _starts(values: NDArray[np.float32], digits: int = 2) -> str:
    """The value of every start, highest first, for those who want to see whether they agree."""
    ordered = sorted((float(v) for v in values if np.isfinite(v)), reverse=True)
    closed = len(values) - len(ordered)
    texts = [fixed(value, digits) for value in ordered] + ["gate closed"] * closed
    return ", ".join(texts)


def _cut(picture: NDArray[np.uint8], box: NDArray[np.int64]) -> Pixels:
    """The part of a picture (channels, height, width) inside a box."""
    top, left, bottom, right = (int(edge) for edge in box)
    return picture_of(picture[:, top:bottom, left:right])
