"""The page in a real browser: every control is used, everything is shown, the console is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Browser
from safetensors.numpy import save_file
from synthetic_runs import (
    WriteRun,
    compare_metrics,
    compare_result,
    examples,
    fit_result,
    maximisers,
    run_filters,
    stack_result,
    write_run_folder,
)

from convexcnn.report import build_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the command chromium")

SHOWN = "[...document.querySelectorAll('[data-{kind}]')].filter(e => e.checkVisibility())"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def stack_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack") / "run"
    write_run_folder(folder, stack_result(3), [], run_filters(10, 16, 16))
    save_file(examples(6, blocks=3) | maximisers(3), folder / "explanations.safetensors")
    return build_report(folder)


def shown(browser: Browser, kind: str) -> list[str]:
    """The values of data-block, data-class or data-image that can be seen."""
    found = browser.run(f"{SHOWN.format(kind=kind)}.map(e => e.dataset.{kind})")
    return sorted(set(found), key=int)


def fits(browser: Browser) -> bool:
    """Whether nothing needs scrolling sideways."""
    return bool(browser.run("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("kind", ["compare", "two-layer"])
def test_the_page_opens_without_a_message(browser: Browser, write_run: WriteRun, kind: str) -> None:
    if kind == "compare":
        metrics = compare_metrics(1, every=100)
        folder = write_run(compare_result(1), metrics, run_filters(10, 16, 16))
    else:
        folder = write_run(fit_result(), [], run_filters(10, 16, 16))
        save_file(examples() | maximisers(), folder / "explanations.safetensors")
    browser.open(build_report(folder))
    assert browser.console == []
    assert browser.run("document.querySelector('button.theme').checkVisibility()")
    assert fits(browser)


def test_a_message_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>console.log('x'); nothing();</script>", "utf-8")
    browser.open(page)
    assert len(browser.console) == 2


def test_every_control_is_clicked(browser: Browser, stack_page: Path) -> None:
    browser.open(stack_page)
    count = browser.run("document.querySelectorAll('input').length")
    assert count == 4 + 11 + 7
    for index in range(count):
        kind, value = browser.run(
            f"(() => {{ const box = document.querySelectorAll('input')[{index}]; box.click();"
            "return [box.name, box.value]; })()"
        )
        everything = {
            "block": ["1", "2", "3"],
            "class": list("0123456789"),
            "image": list("012345"),
        }
        assert shown(browser, kind) == (everything[kind] if value == "all" else [value])
        assert fits(browser)
    folds = browser.run("document.querySelectorAll('summary').forEach(e => e.click())")
    assert folds is None
    assert browser.run("[...document.querySelectorAll('details')].every(e => e.open)")
    assert browser.run("[...document.images].every(e => e.complete && e.naturalWidth > 0)")
    assert browser.console == []


def test_it_opens_at_the_first_block_and_image_with_all_classes(
    browser: Browser, stack_page: Path
) -> None:
    browser.open(stack_page)
    assert [shown(browser, kind) for kind in ("block", "image")] == [["1"], ["0"]]
    assert len(shown(browser, "class")) == 10


def test_the_keyboard_chooses(browser: Browser, stack_page: Path) -> None:
    browser.open(stack_page)
    browser.run("document.querySelector('input[name=block]').focus()")
    browser.press("ArrowRight", 39)
    assert shown(browser, "block") == ["2"]
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.name") == "class"
    browser.press("ArrowRight", 39)  # from the last, all, to the first
    assert shown(browser, "class") == ["0"]
    assert browser.console == []


@pytest.mark.parametrize("media", ["screen", "print"])
def test_without_its_script_everything_is_shown(
    browser: Browser, stack_page: Path, media: str
) -> None:
    browser.open(stack_page, script=False)
    browser.send("Emulation.setEmulatedMedia", media=media)
    assert [len(shown(browser, kind)) for kind in ("block", "class", "image")] == [3, 10, 6]
    assert not browser.run(
        "[...document.querySelectorAll('input')].some(e => e.getClientRects().length)"
    )
    browser.send("Emulation.setEmulatedMedia", media="")


def test_print_shows_everything_whatever_was_chosen(browser: Browser, stack_page: Path) -> None:
    browser.open(stack_page)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert [len(shown(browser, kind)) for kind in ("block", "class", "image")] == [3, 10, 6]
    assert not browser.run("document.querySelector('.choices').checkVisibility()")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_the_theme_button_turns_the_page_dark_and_back(browser: Browser, stack_page: Path) -> None:
    browser.open(stack_page)
    colours = []
    for _ in range(2):
        browser.run("document.querySelector('button.theme').click()")
        colours.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(21, 21, 20)", "rgb(253, 252, 249)"]
    assert browser.console == []


def test_a_telephone_needs_no_sideways_scrolling(browser: Browser, stack_page: Path) -> None:
    metrics = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.send("Emulation.setDeviceMetricsOverride", **metrics)
    browser.open(stack_page)
    assert fits(browser)
    browser.send("Emulation.clearDeviceMetricsOverride")
