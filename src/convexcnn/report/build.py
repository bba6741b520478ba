"""From a run folder to its report."""

from __future__ import annotations

from pathlib import Path

from convexcnn.errors import RunError
from convexcnn.report.compare_page import compare_page
from convexcnn.report.fit_page import fit_page
from convexcnn.report.page import Page, render
from convexcnn.report.results import FitResult
from convexcnn.report.run_files import RunFiles, read_run, write_atomically


def build_report(run_folder: Path) -> Path:
    """Write `report.html` and `figures/` into a run folder, from that folder's files alone.

    Args:
        run_folder: a folder written by `fit` or `compare`.

    Returns:
        The path of the page, one file that needs no other and no network.

    Raises:
        RunError: a file is missing, damaged, or the folder cannot be written.
    """
    run = read_run(run_folder)
    try:
        page, html = _draw(run)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{run_folder}: its numbers cannot be drawn ({error!r}); restore its files, and if "
            "nobody changed them, this is a bug: run 'convexcnn report' with --debug"
        ) from error
    for name, content in page.figure_files().items():
        write_atomically(run_folder / "figures" / name, content)
    report = run_folder / "report.html"
    write_atomically(report, html.encode("utf-8", "replace"))
    return report


def _draw(run: RunFiles) -> tuple[Page, str]:
    """The page with its figures, and as HTML."""
    result = run.result
    page = fit_page(run, result) if isinstance(result, FitResult) else compare_page(run, result)
    return page, render(page)
