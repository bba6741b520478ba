"""Line charts drawn by matplotlib: SVG and PNG files, and SVG that follows the page's theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc, rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from convexcnn.report.formatting import scientific

# The light theme, also used in files; each colour is a variable `--name` of style.css.
PALETTE = {
    "ink": "#1c1b19",
    "muted": "#6b6760",
    "rule": "#dedad2",
    "convex": "#1b5e9e",
    "non-convex": "#b5521b",
    "further": "#2f7d4f",
}
_WIDTH, _HEIGHT = 390, 285
_LEFT = 0.105
_FONT_SIZE = 11
_DASHES = (0, (5, 1.6))
_LINE_STYLES = {"convex": "-", "non-convex": _DASHES, "muted": _DASHES, "ink": "-", "further": "-"}
_MOST_TICKS = 6  # of a logarithmic axis
_SETTLED = 0.02
"""Part of a loss curve, from its start, that does not decide how high the chart reaches."""

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Line:
    """One line with, if there are several seeds, the band from `low` to `high` around it."""

    label: str
    colour: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    markers: bool = False


@dataclass(frozen=True)
class Mark:
    """A point of interest with its drop line to the x axis."""

    x: float
    y: float
    label: str
    colour: str


@dataclass(frozen=True)
class LineChart:
    """A figure of one or more lines.

    `name` is its file name, `description` its text in words; with `whole_x` the x axis counts
    things, from the first one on.
    """

    name: str
    title: str
    description: str
    x_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    level: float | None = None
    log_x: bool = False
    in_percent: bool = False
    whole_x: bool = False


def chart_files(chart: LineChart) -> dict[str, bytes]:
    """The chart as `name.svg` (text as outlines) and `name.png`, on white."""
    vector, raster = io.BytesIO(), io.BytesIO()
    with _style(text_as="path", salt=chart.name):
        figure = _draw(chart)
        figure.savefig(vector, format="svg", facecolor="white", metadata={"Date": None})
        figure.savefig(raster, format="png", facecolor="white", dpi=220)
    return {f"{chart.name}.svg": vector.getvalue(), f"{chart.name}.png": raster.getvalue()}


def inline_svg(chart: LineChart) -> str:
    """The chart as an `<svg>` element whose colours and font are those of the page around it."""
    with _style(text_as="none", salt=chart.name):
        buffer = io.BytesIO()
        _draw(chart).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(buffer.getvalue(), chart)


@contextmanager
def _style(text_as: str, salt: str) -> Iterator[None]:
    with rc_context():
        rcdefaults()  # whatever the user's own matplotlibrc says
        rc("svg", fonttype=text_as, hashsalt=salt)
        rc("font", family="DejaVu Sans", size=_FONT_SIZE)
        rc("text", color=PALETTE["ink"], parse_math=False)
        rc("axes", edgecolor=PALETTE["muted"], linewidth=0.8)
        rc("xtick", color=PALETTE["muted"])
        rc("ytick", color=PALETTE["muted"])
        rc("path", simplify_threshold=0.2)
        yield


def _draw(chart: LineChart) -> Figure:
    figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
    axes = figure.add_axes((_LEFT, 0.165, 1 - _LEFT - 0.21, 0.72))
    _draw_axes(axes, chart)
    for order, line in enumerate(chart.lines):
        colour = PALETTE[line.colour]
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            color=colour,
            linewidth=1.7,
            linestyle=_LINE_STYLES[line.colour],
            marker="o" if line.markers else "",
            markersize=3.6,
            zorder=3 + order,
        )
    if chart.level is not None:
        axes.axhline(chart.level, color=PALETTE["muted"], linewidth=0.8, zorder=2)
    _limit(axes, chart)
    if chart.log_x:
        axes.xaxis.set_major_locator(FixedLocator(_log_ticks(*axes.get_xlim())))
    _draw_marks(axes, chart)
    _label_lines(axes, chart.lines)
    return figure


def _draw_axes(axes: Axes, chart: LineChart) -> None:
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALETTE["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=4)
    axes.tick_params(axis="x", length=3.5, width=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    if chart.in_percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}%"))
    if chart.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_log_label))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=chart.whole_x))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))
    axes.set_xlabel(chart.x_label, color=PALETTE["muted"], labelpad=5)
    axes.figure.text(0, 0.94, chart.title, color=PALETTE["ink"], fontweight="bold")


def _log_ticks(low: float, high: float) -> list[float]:
    """Where a logarithmic axis from `low` to `high`, both positive, has its numbers.

    At powers of ten, every second or third where they are many; where fewer than two are in view,
    at 1, 2 and 5 times powers of ten, or at all digits; and at the ends where even those are few.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**e for e in range(first, last + 1) if low <= 10.0**e <= high]
    if len(powers) > 1:
        return powers[:: -(-len(powers) // _MOST_TICKS)]
    for digits in ((1, 2, 5), range(1, 10)):
        ticks = [float(f"{d}e{e}") for e in range(first, last + 1) for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            return ticks
    return [low, high]


def _log_label(value: float, _position: int) -> str:
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-9:
        return scientific(value, 0 if float(f"{value:.0e}") == value else 1)
    if -3 < exponent < 4:
        return f"{value:g}"
    return "10" + str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _limit(axes: Axes, chart: LineChart) -> None:
    """Fit the axes to the finite data; accuracies never leave 0 to 100 %.

    A loss may start far above where it soon is: its first steps may leave through the top.
    """
    skipped = 0.0 if chart.in_percent else _SETTLED
    settled = [line.y[int(skipped * len(line.y)) :] for line in chart.lines]
    finite = np.concatenate([y[np.isfinite(y)] for y in settled])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if chart.level is not None:
        low, high = min(low, chart.level), max(high, chart.level)
    margin = 0.06 * (high - low) or 0.05
    bottom, top = low - margin, high + margin
    if chart.in_percent:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    axes.set_ylim(bottom, top)
    x = np.concatenate([line.x for line in chart.lines])
    if chart.whole_x and x.size:
        axes.set_xlim(x.min() - 0.15, x.max() + 0.15)
    elif not chart.log_x and x.size and x.max() > x.min():
        axes.set_xlim(0, x.max())


def _draw_marks(axes: Axes, chart: LineChart) -> None:
    bottom = axes.get_ylim()[0]
    for mark in chart.marks:
        colour = PALETTE[mark.colour]
        axes.plot([mark.x, mark.x], [bottom, mark.y], color=colour, linewidth=0.9, linestyle=":")
        axes.plot([mark.x], [mark.y], "o", color=colour, markersize=5.5, zorder=9, clip_on=False)
        to_left = _fraction_across(axes, mark.x) > 0.7
        axes.annotate(
            mark.label,
            (mark.x, bottom),
            xytext=(-5 if to_left else 5, 6),
            textcoords="offset points",
            ha="right" if to_left else "left",
            color=colour,
            fontweight="bold",
        )


def _fraction_across(axes: Axes, x: float) -> float:
    return float(axes.transAxes.inverted().transform(axes.transData.transform((x, 0.5)))[0])


def _label_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each line's name at its right end, pushed apart where ends are close."""
    bottom, top = axes.get_ylim()
    ends = [
        (float(line.y[np.isfinite(line.y)][-1]) - bottom) / (top - bottom)
        if np.isfinite(line.y).any()
        else 0.5
        for line in lines
    ]
    for position, line in zip(_spread_out(ends, apart=0.075), lines, strict=True):
        axes.text(
            1.02,
            position,
            line.label,
            transform=axes.transAxes,
            color=PALETTE[line.colour],
            va="center",
            fontweight="bold",
        )


def _spread_out(positions: Sequence[float], apart: float) -> list[float]:
    order = np.argsort(positions)
    placed = [positions[i] for i in order]
    for _ in range(20):
        for i in range(1, len(placed)):
            lack = apart - (placed[i] - placed[i - 1])
            if lack > 0:
                placed[i - 1] -= lack / 2
                placed[i] += lack / 2
    result = [0.0] * len(placed)
    for position, index in zip(placed, order, strict=True):
        result[index] = position
    return result


def _adopt(svg: bytes, chart: LineChart) -> str:
    """Turn a stand-alone SVG document into an element of the page: no ids or fonts of its own."""
    root = ElementTree.fromstring(svg)
    for child in list(root):
        is_style = child.tag == f"{_SVG}defs" and child.find(f"{_SVG}style") is not None
        if is_style or child.tag == f"{_SVG}metadata":
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.attrib[key.replace(_XLINK, "")] = _adopt_attribute(key, value, chart.name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-labelledby", f"{chart.name}-title {chart.name}-description")
    for tag, text in (("description", chart.description), ("title", chart.title)):
        element = ElementTree.Element("desc" if tag == "description" else tag)
        element.set("id", f"{chart.name}-{tag}")
        element.text = text
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _adopt_attribute(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key == f"{_XLINK}href" and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    value = value.replace("url(#", f"url(#{prefix}-")
    for name, colour in PALETTE.items():
        value = value.replace(colour, f"var(--{name})")
    value = re.sub(r"font: (?:(bold|\d+) )?([\d.]+px) [^;]*", _font_size, value)
    return re.sub(r"font-family: [^;]*(?:; )?", "", value)


def _font_size(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
