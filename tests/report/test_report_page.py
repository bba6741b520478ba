"""What holds for every page: well-formed, self-contained, escaped, small and complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from html_page import HtmlPage
from synthetic_runs import (
    WriteRun,
    compare_metrics,
    compare_result,
    fit_result,
    run_filters,
    write_run_folder,
)

from convexcnn.report import build_report
from convexcnn.report.build import FIGURES

HOSTILE = tuple(f'<script>alert({i})</script> "{i}" & {{{{ {i} }}}}' for i in range(10))


@pytest.fixture(scope="module", params=["fit", "compare"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    filters = run_filters(10, convex=20, non_convex=40)
    if request.param == "fit":
        return build_report(write_run_folder(folder, fit_result(), [], filters))
    metrics = compare_metrics(every=50)
    return build_report(write_run_folder(folder, compare_result(), metrics, filters))


@pytest.fixture(scope="module")
def page(report: Path) -> HtmlPage:
    return HtmlPage(report.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(report: Path, page: HtmlPage) -> None:
    for attribute in ("src", "data", "poster", "action", "srcset"):
        for value in page.attributes(attribute):
            assert value.startswith("data:image/png;base64,")
    assert [attrs["href"] for attrs in page.all_of("link")] == ["data:,"]
    html = report.read_text(encoding="utf-8")
    assert not re.search(r"@import|@font-face|url\((?!#|data:)", html)
    outside = set(re.findall(r"[a-z]+://[^\"'\s<>]+", html))
    assert all(url.startswith("https://arxiv.org/abs/") for url in outside)
    assert outside == {attrs["href"] for attrs in page.all_of("a") if "://" in attrs["href"]}


def test_links_lead_to_files_and_headings_that_exist(report: Path, page: HtmlPage) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for href in (attrs["href"] or "" for attrs in page.all_of("a")):
        if href.startswith("#"):
            assert href[1:] in ids
        elif "://" not in href and href != "metrics.jsonl":
            assert (report.parent / href).exists(), href
    for name in page.attributes("aria-labelledby"):
        assert set(name.split()) <= set(ids)


def test_drawing_references_stay_within_the_page(report: Path, page: HtmlPage) -> None:
    ids = set(page.attributes("id"))
    references = re.findall(r"url\(#([^)]+)\)", report.read_text(encoding="utf-8"))
    references += [attrs["href"][1:] for attrs in page.all_of("use") if attrs.get("href")]
    assert references
    assert set(references) <= ids


def test_every_picture_and_table_says_what_it_is(page: HtmlPage) -> None:
    images = page.all_of("img")
    assert images
    assert all(attrs["alt"] and attrs["width"] and attrs["height"] for attrs in images)
    assert all(attrs.get("scope") for attrs in page.all_of("th"))
    for attrs in page.all_of("svg"):
        assert attrs.get("aria-hidden") == "true" or attrs.get("role") == "img"


def test_the_page_is_small(report: Path) -> None:
    assert report.stat().st_size < 300_000


def test_building_again_changes_nothing(report: Path) -> None:
    before = {path.name: path.read_bytes() for path in _files(report.parent)}
    build_report(str(report.parent))
    assert {path.name: path.read_bytes() for path in _files(report.parent)} == before


def test_figures_of_an_earlier_page_go_and_other_files_stay(report: Path) -> None:
    figures = report.parent / "figures"
    written = {path.name for path in figures.iterdir()}
    assert all(FIGURES.fullmatch(name) for name in written)
    own, others = {"depth-of-runs.svg", "why-9.png"}, {"depth-of-runs.pdf", "mine.png", "why.png"}
    for name in own | others:
        (figures / name).touch()
    (figures / "depth.svg").mkdir()
    build_report(report.parent)
    assert {path.name for path in figures.iterdir()} == written | others | {"depth.svg"}
    for name in others:
        (figures / name).unlink()
    (figures / "depth.svg").rmdir()


def test_nothing_temporary_stays(report: Path) -> None:
    assert not [path for path in report.parent.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("kind", ["fit", "compare"])
def test_names_are_shown_and_never_run(kind: str, write_run: WriteRun) -> None:
    result = fit_result(HOSTILE) if kind == "fit" else compare_result(1, HOSTILE)
    result["data"]["name"] = "<img src=x onerror=alert(1)>"
    result["data"]["source"] = "</title><script>alert(2)</script>"
    result["settings"]["</script><b>"] = "<i>"
    result["machine"]["processor"] = "<svg onload=alert(3)>"
    config = '# convexcnn fit "<b>" --out x\nname = "</code><script>alert(4)</script>"\n'
    metrics = compare_metrics(1, every=500) if kind == "compare" else []
    folder = write_run(result, metrics, run_filters(10, 4, 4), config)
    page = HtmlPage(build_report(folder).read_text(encoding="utf-8"))
    assert len(page.all_of("script")) == 1
    assert not [attrs for _, attrs in page.elements if set(attrs) & {"onerror", "onload"}]
    assert not page.all_of("i") if kind == "fit" else len(page.all_of("i")) == 1
    text = page.text()
    assert "<img src=x onerror=alert(1)>" in text
    assert 'convexcnn fit "<b>" --out x' in text
    assert HOSTILE[3] in text


@pytest.mark.parametrize("kind", ["fit", "compare"])
def test_two_hundred_classes_fit_on_a_page(kind: str, write_run: WriteRun) -> None:
    names = tuple(f"n{i:08d} a class with a name that is rather long" for i in range(200))
    result = fit_result(names) if kind == "fit" else compare_result(1, names)
    metrics = compare_metrics(1, every=100) if kind == "compare" else []
    report = build_report(write_run(result, metrics, run_filters(200, 16, 128)))
    page = HtmlPage(report.read_text(encoding="utf-8"))
    assert report.stat().st_size < 3_000_000
    assert "180 more classes" in page.text()
    assert page.text().count(names[199]) >= 2
    assert any(
        "Confusion matrix of 200 classes" in label for label in page.attributes("aria-label")
    )


def test_the_palette_of_figures_is_the_light_theme() -> None:
    from convexcnn.report import line_chart

    style = (Path(line_chart.__file__).parent / "templates" / "style.css").read_text("utf-8")
    for name, colour in line_chart.PALETTE.items():
        assert f"--{name}: light-dark({colour}, " in style


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
