"""The page in a real browser: no console message, and the theme button works."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_runs import WriteRun, compare_metrics, compare_result, fit_result, run_filters

from convexcnn.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's HTML after its script ran, and what the console said."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_opens_without_a_message(write_run: WriteRun, tmp_path: Path) -> None:
    metrics = compare_metrics(1, every=100)
    page = build_report(write_run(compare_result(1), metrics, run_filters(10, 16, 16)))
    dom, console = opened(page, tmp_path / "profile")
    assert console == []
    assert '<button type="button" class="theme">' in dom  # no longer hidden


def test_the_theme_button_turns_the_page_dark(write_run: WriteRun, tmp_path: Path) -> None:
    page = build_report(write_run(fit_result()))
    click = """
document.querySelector("button.theme").click();
document.title = document.documentElement.dataset.theme + " " +
  getComputedStyle(document.body).backgroundColor + " " +
  (document.documentElement.scrollWidth <= innerWidth);
</script>"""
    html = page.read_text("utf-8").replace("</script>", click)
    page.write_text(html, "utf-8")
    dom, console = opened(page, tmp_path / "profile")
    assert console == []
    assert "<title>dark rgb(21, 21, 20) true</title>" in dom
