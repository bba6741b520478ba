"""From a run folder to its report."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path

from convexcnn.errors import RunError
from convexcnn.report.beside import COLOURS, read_beside, require_stack, run_names
from convexcnn.report.compare_page import compare_page
from convexcnn.report.fit_page import fit_page
from convexcnn.report.page import Page, render
from convexcnn.report.results import FitResult
from convexcnn.report.run_files import RunFiles, read_run, write_atomically

FIGURES = re.compile(
    r"(filters-(convex|non-convex)|why-\d+)\.png"
    r"|(depth|depth-of-runs|time|beta-path-\d+|training-(loss|accuracy)|gates-accuracy(-\d+)?)"
    r"\.(svg|png)"
)
"""Names of all figures that a page can have."""


def build_report(run_folder: Path | str, beside: Sequence[Path | str] = ()) -> Path:
    """Write `report.html` and `figures/` into a run folder, from that folder's files alone.

    Args:
        run_folder: a folder written by `fit` or `compare`.
        beside: folders of further stacks on the same images, four at most, whose accuracy
            against depth is drawn beside that of the first.

    Returns:
        The path of the page, one file that needs no other and no network.

    Raises:
        RunError: a file is missing, damaged, or the folder cannot be written; or the runs cannot
            be drawn beside each other.
    """
    run_folder, further = Path(run_folder), [Path(folder) for folder in beside]
    run = read_run(run_folder)
    stacks: list[tuple[str, FitResult]] = []
    if len(further) >= len(COLOURS):
        raise RunError(
            f"{len(further)} runs beside {run_folder} are too many for one chart; give 4"
        )
    if further:
        first = require_stack(run_folder, run.result)
        results = [first, *(read_beside(folder, first) for folder in further)]
        stacks = list(zip(run_names([run_folder, *further]), results, strict=True))
    try:
        page, html = _draw(run, stacks)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{run_folder}: its numbers cannot be drawn ({error!r}); restore its files, and if "
            "nobody changed them, this is a bug: run 'convexcnn report' with --debug"
        ) from error
    figures, files = run_folder / "figures", page.figure_files()
    for name, content in files.items():
        write_atomically(figures / name, content)
    report = run_folder / "report.html"
    write_atomically(report, html.encode("utf-8", "replace"))
    _remove_others(figures, files)
    return report


def _remove_others(figures: Path, files: Container[str]) -> None:
    """Remove the figures of an earlier page, and nothing else that lies beside them."""
    try:
        for path in sorted(figures.iterdir()) if figures.is_dir() else ():
            if FIGURES.fullmatch(path.name) and path.name not in files and path.is_file():
                path.unlink()
    except OSError as error:
        raise RunError(
            f"{figures}: old figures cannot be removed ({error.strerror}); check permissions"
        ) from error


def _draw(run: RunFiles, stacks: Sequence[tuple[str, FitResult]]) -> tuple[Page, str]:
    """The page with its figures, and as HTML."""
    result = run.result
    if isinstance(result, FitResult):
        page = fit_page(run, result, stacks)
    else:
        page = compare_page(run, result)
    return page, render(page)
