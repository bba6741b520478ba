"""Filters as pictures: zero is mid-grey, the largest weight of each filter black or white."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convexcnn.report.drawing import font_of, png
from convexcnn.report.formatting import count, one_line
from convexcnn.report.run_files import FilterSet, RunFiles, Tensor

Pixels = NDArray[np.uint8]
_PER_ROW = 16
_GRID_ROWS = 8
_ROWS_OPEN = 20
_CELL = 48


@dataclass(frozen=True)
class FilterRow:
    """One row of the figure: a picture, its text and the bars of strength under it."""

    label: str
    shown: int
    alt: str
    data_uri: str
    width: int
    height: int
    bars: str  # an SVG path in units of the picture's width, one high


@dataclass(frozen=True)
class FilterView:
    """Filters of one model: rows on view, rows behind a fold, and a PNG of the whole."""

    name: str
    title: str
    note: str
    rows: list[FilterRow]
    folded: list[FilterRow]
    sheet: bytes

    @property
    def file(self) -> str:
        """Name of the PNG in `figures`."""
        return f"filters-{self.name}.png"


def filter_views(run: RunFiles) -> list[FilterView]:
    """The filters that a run recorded: the non-convex network's, then the convex program's."""
    views = []
    if run.non_convex is not None:
        views.append(_non_convex_view(run.non_convex))
    if run.convex is not None:
        views.append(_convex_view(run.convex, run.column_names))
    return views


def _convex_view(filters: FilterSet, classes: Sequence[str]) -> FilterView:
    rows = _class_rows(filters, classes)
    total = filters.filters.shape[1]
    return FilterView(
        name="convex",
        title="Convex program",
        note=_note(rows[0].shown, total, " per class"),
        rows=rows[:_ROWS_OPEN],
        folded=rows[_ROWS_OPEN:],
        sheet=_class_sheet(filters, classes),
    )


def _non_convex_view(filters: FilterSet) -> FilterView:
    rows = _grid_rows(filters)
    shown, total = sum(row.shown for row in rows), len(filters.filters)
    return FilterView(
        name="non-convex",
        title="Non-convex network",
        note=_note(shown, total, ", shared by all classes"),
        rows=rows,
        folded=[],
        sheet=_grid_sheet(filters),
    )


def _note(shown: int, total: int, suffix: str) -> str:
    if total == 1:
        return f"the only one{suffix}"
    which = f"the {shown} strongest of {count(total)}" if shown < total else f"all {count(total)}"
    return which + suffix


def _class_rows(filters: FilterSet, classes: Sequence[str]) -> list[FilterRow]:
    """The strongest filters of every class, one row each."""
    rows = []
    for name, of_class, strength in zip(classes, filters.filters, filters.strength, strict=True):
        shown = min(_PER_ROW, len(of_class))
        alt = f"The {shown} strongest filters of class {name}, strongest first"
        if shown == 1:
            alt = f"The strongest filter of class {name}"
        rows.append(_row(name, alt, of_class[:shown], strength[:shown], float(strength[0])))
    return rows


def _grid_rows(filters: FilterSet) -> list[FilterRow]:
    """The strongest filters of a model whose classes share them, in reading order."""
    order = np.argsort(-filters.strength, kind="stable")[: _PER_ROW * _GRID_ROWS]
    strongest = float(filters.strength[order[0]])
    rows = []
    for start in range(0, len(order), _PER_ROW):
        chosen = order[start : start + _PER_ROW]
        label = f"{start + 1}–{start + len(chosen)}" if len(chosen) > 1 else f"{start + 1}"
        noun = "Filters" if len(chosen) > 1 else "Filter"
        alt = f"{noun} {label} of the non-convex network by strength"
        rows.append(_row(label, alt, filters.filters[chosen], filters.strength[chosen], strongest))
    return rows


def _class_sheet(filters: FilterSet, classes: Sequence[str]) -> bytes:
    """A PNG with a named row of filters per class."""
    rows = [_strip(of_class[:_PER_ROW]) for of_class in filters.filters]
    font = font_of(19)
    labels = [_shortened(name, font) for name in classes]
    margin = 24 + max(round(font.getlength(label)) for label in labels)
    height, width = rows[0].shape[:2]
    sheet = Image.new("RGB", (margin + width + 8, len(rows) * (height + 12) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (label, row) in enumerate(zip(labels, rows, strict=True)):
        top = 8 + position * (height + 12)
        draw.text((8, top + height / 2), label, fill="#1c1b19", font=font, anchor="lm")
        picture = Image.fromarray(row, "RGBA")
        sheet.paste(picture, (margin, top), picture)
    return png(sheet)


def _shortened(name: str, font: ImageFont.FreeTypeFont, most: float = 360.0) -> str:
    """A name that fits into so many pixels, in one line."""
    name = one_line(name)
    if font.getlength(name) <= most:
        return name
    while name and font.getlength(f"{name}…") > most:
        name = name[:-1]
    return f"{name}…"


def _grid_sheet(filters: FilterSet) -> bytes:
    """A PNG of every filter of a model whose classes share them, strongest first."""
    ordered = filters.filters[np.argsort(-filters.strength, kind="stable")]
    columns = 2 * _PER_ROW
    strips = [_strip(ordered[i : i + columns], columns) for i in range(0, len(ordered), columns)]
    height, width = strips[0].shape[:2]
    gap = _gap(width // columns)
    sheet = Image.new("RGB", (width + 2 * gap, len(strips) * (height + gap) + gap), "white")
    for position, strip in enumerate(strips):
        picture = Image.fromarray(strip, "RGBA")
        sheet.paste(picture, (gap, gap + position * (height + gap)), picture)
    return png(sheet)


def colours_of(filters: Tensor) -> Pixels:
    """Filters (m, c, h, w) as pictures (m, h, w, 3): weight w becomes 127.5 (1 + w / max |w|).

    One channel is drawn grey, three in colour, any other number as the mean over channels.
    """
    if filters.shape[1] not in (1, 3):
        filters = filters.mean(axis=1, keepdims=True)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.divide(filters, largest, out=np.zeros_like(filters), where=largest > 0)
    pixels = np.rint(127.5 * (1 + scaled)).astype(np.uint8)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1)


def _row(label: str, alt: str, filters: Tensor, strength: Tensor, strongest: float) -> FilterRow:
    strip = _strip(filters)
    encoded = base64.b64encode(png(Image.fromarray(strip, "RGBA"))).decode("ascii")
    return FilterRow(
        label=label,
        shown=len(filters),
        alt=alt,
        data_uri=f"data:image/png;base64,{encoded}",
        width=strip.shape[1],
        height=strip.shape[0],
        bars=_bars(strength, strongest, strip.shape[1]),
    )


def _strip(filters: Tensor, columns: int = _PER_ROW) -> Pixels:
    """A row of filters on a transparent ground, enlarged by a whole factor."""
    pixels = colours_of(filters)
    scale = max(1, _CELL // max(pixels.shape[1:3]))
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = large.shape[1:3]
    gap = _gap(width)
    strip = np.zeros((height, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for position, picture in enumerate(large):
        left = position * (width + gap)
        strip[:, left : left + width, :3] = picture
        strip[:, left : left + width, 3] = 255
    return strip


def _gap(width: int) -> int:
    return max(1, width // 12)


def _bars(strength: Tensor, strongest: float, picture_width: int) -> str:
    """An SVG path with a bar under each filter, as wide as the filter is strong."""
    relative = np.clip(strength / strongest if strongest > 0 else strength * 0, 0, 1)
    step = (picture_width + _gap(picture_width // _PER_ROW)) / _PER_ROW
    full = step - _gap(picture_width // _PER_ROW)
    return "".join(
        f"M{step * i:.5g} 0h{full * value:.4g}v1H{step * i:.5g}z"
        for i, value in enumerate(relative)
    )
