"""A page about one run, before and after it becomes HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convexcnn.report.colophon import Colophon
from convexcnn.report.confusion import ConfusionView
from convexcnn.report.explore import ExploreView
from convexcnn.report.filter_pictures import FilterView
from convexcnn.report.line_chart import LineChart, chart_files, inline_svg
from convexcnn.report.why import WhyView


@dataclass(frozen=True)
class ChartView:
    """A chart on the page, its caption, the same chart as files, and the block it is of, if any."""

    svg: Markup
    caption: str
    files: Mapping[str, bytes]
    block: int | None = None


@dataclass(frozen=True)
class Page:
    """What a template shows; `content` is what only one kind of page has."""

    template: str
    title: str
    kicker: str
    headline: str
    summary: str
    content: Mapping[str, object]
    charts: list[ChartView]
    filters: list[FilterView]
    confusions: list[ConfusionView]
    colophon: Colophon
    why: WhyView | None = None
    explore: ExploreView | None = None

    def figure_files(self) -> dict[str, bytes]:
        """Every figure as files, by name."""
        files = {view.file: view.sheet for view in self.filters}
        for chart in self.charts:
            files.update(chart.files)
        if self.why is not None:
            files.update(self.why.files)
        return files


def chart_view(chart: LineChart, caption: str, block: int | None = None) -> ChartView:
    """Draw a chart for the page, or for one block of a stack."""
    return ChartView(Markup(inline_svg(chart)), caption, chart_files(chart), block)


def render(page: Page) -> str:
    """The page as one HTML document with nothing outside it."""
    environment = Environment(
        loader=PackageLoader("convexcnn.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = resources.files("convexcnn.report") / "templates"
    return environment.get_template(page.template).render(
        page=page,
        style=Markup((templates / "style.css").read_text(encoding="utf-8")),
        script=Markup((templates / "page.js").read_text(encoding="utf-8")),
        **page.content,
    )
