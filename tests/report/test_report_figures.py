"""Pictures of filters and charts: what the pixels and the vectors mean."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from convexcnn.report.confusion import confusion_view
from convexcnn.report.filter_pictures import colours_of
from convexcnn.report.formatting import duration, memory, percent, scientific, signed, words_of
from convexcnn.report.line_chart import PALETTE, Line, LineChart, Mark, chart_files, inline_svg

X = np.arange(1.0, 20.0)
CHART = LineChart(
    name="curve",
    title="Loss & <error>",
    description="falls",
    x_label="steps",
    lines=[
        Line("convex", "convex", X, 1 / X, low=0.9 / X, high=1.1 / X),
        Line("non-convex", "non-convex", X, 1 / X),
    ],
    marks=[Mark(5.0, 0.2, "5", "convex")],
    level=0.2,
)


def test_zero_is_mid_grey_and_signs_are_symmetric() -> None:
    filters = np.zeros((3, 3, 2, 2), np.float32)
    filters[0, 0, 0, 0], filters[0, 1, 1, 1] = 0.5, -0.25
    filters[1] = -filters[0] * 1e-20
    pixels = colours_of(filters).astype(int)
    assert pixels[0, 0, 0].tolist() == [255, 128, 128]
    assert pixels[0, 1, 1].tolist() == [128, 64, 128]
    assert np.abs(pixels[0] + pixels[1] - 255).max() <= 1
    assert (pixels[2] == 128).all()


def test_one_channel_is_grey_and_many_are_averaged() -> None:
    filters = np.random.default_rng(0).normal(size=(4, 8, 3, 3)).astype(np.float32)
    pixels = colours_of(filters)
    assert pixels.shape == (4, 3, 3, 3)
    assert (pixels == pixels[..., :1]).all()
    assert (pixels == colours_of(filters.mean(axis=1, keepdims=True))).all()


def test_charts_come_as_vector_and_raster() -> None:
    files = chart_files(CHART)
    assert ElementTree.fromstring(files["curve.svg"]).tag.endswith("svg")
    assert Image.open(io.BytesIO(files["curve.png"])).width > 1000


def test_charts_on_the_page_take_colours_font_and_ids_from_it() -> None:
    svg = inline_svg(CHART)
    root = ElementTree.fromstring(svg)
    assert not [element for element in root.iter() if element.tag in ("style", "metadata")]
    assert "font-family" not in svg
    assert "DejaVu" not in svg
    assert "var(--convex)" in svg
    assert not [colour for colour in PALETTE.values() if colour in svg]
    assert root.findtext("title") == "Loss & <error>"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(name.startswith("curve-") for name in ids)


def test_labels_of_lines_that_end_together_do_not_overlap() -> None:
    root = ElementTree.fromstring(inline_svg(CHART))
    places = {e.text: e.get("transform") or e.get("y") for e in root.iter("text")}
    heights = [_height(root, label) for label in ("convex", "non-convex")]
    assert abs(heights[0] - heights[1]) > 10, places


def test_undefined_values_leave_gaps_and_no_failure() -> None:
    hole = replace(CHART.lines[0], y=np.full_like(X, np.nan), low=None, high=None)
    assert "<svg" in inline_svg(replace(CHART, lines=[hole], marks=[]))


@pytest.mark.parametrize("log_x", [False, True])
def test_a_constant_line_and_a_single_point_can_be_drawn(log_x: bool) -> None:
    one = Line("validation", "convex", np.array([3.0]), np.array([0.5]), markers=True)
    assert "<svg" in inline_svg(replace(CHART, lines=[one], marks=[], level=None, log_x=log_x))


@pytest.mark.parametrize(
    ("betas", "ticks"),
    [
        ([0.02, 0.03, 0.05], ["0.02", "0.05"]),
        ([0.03, 0.04], ["0.03", "0.04"]),
        ([0.021, 0.024], ["0.0209", "0.0242"]),
        ([0.05, 0.3], ["0.05", "0.1", "0.2"]),
        ([3e-5, 6e-5], ["3\u202f×\u202f10⁻⁵", "4\u202f×\u202f10⁻⁵"]),
        ([0.01, 0.1, 1.0], ["0.01", "0.1", "1"]),
        ([1e-8, 1.0], ["10⁻⁸", "10⁻⁶", "10⁻⁴"]),
    ],
)
def test_a_path_of_beta_has_numbers_however_short_it_is(betas: list[float], ticks: Any) -> None:
    line = Line("validation", "convex", np.array(betas), np.linspace(0.5, 0.6, len(betas)))
    svg = inline_svg(replace(CHART, lines=[line], marks=[], level=None, log_x=True))
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert texts[: len(ticks)] == ticks


def test_confusions_are_shares_of_rows_and_empty_rows_are_unknown() -> None:
    view = confusion_view("test", np.array([[3, 1, 0], [0, 0, 0], [5, 0, 5]]), ("a", "b", "c"))
    assert [row.accuracy for row in view.rows] == ["75.0%", "–", "50.0%"]
    assert [cell.share for cell in view.rows[0].cells] == [0.75, 0.25, 0.0]
    assert view.mistakes == ["c taken for a (5)", "a taken for b (1)"]


def test_numbers_read_well() -> None:
    assert percent(0.50361) == "50.36%"
    assert percent(float("nan")) == percent(None) == "–"
    assert signed(-0.00681) == "\u22120.0068"
    assert signed(-1e-9) == "0.0000"
    assert scientific(2.71e-7) == "2.7\u202f×\u202f10⁻⁷"
    assert scientific(1e-4) == "10⁻⁴"
    assert scientific(0.034) == "0.034"
    assert [duration(s) for s in (0.25, 12.34, 431.9, 6723.4)] == [
        "0.25 s",
        "12.3 s",
        "7 min 12 s",
        "1 h 52 min",
    ]
    assert [memory(b) for b in (12, 5.1e6, 5_123_456_789)] == ["12 bytes", "5.1 MB", "5.12 GB"]
    assert words_of(["a", "b", "c"]) == "a, b and c"


def _height(root: ElementTree.Element, label: str) -> float:
    (text,) = [element for element in root.iter("text") if element.text == label]
    if text.get("y"):
        return float(text.get("y", ""))
    translate = text.get("transform", "").split("translate(")[1].split(")")[0]
    return float(translate.replace(",", " ").split()[1])
