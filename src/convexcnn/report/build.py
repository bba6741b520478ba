"""From a run folder to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convexcnn.errors import RunError
from convexcnn.report.beside import COLOURS, read_beside, require_stack
from convexcnn.report.compare_page import compare_page
from convexcnn.report.fit_page import fit_page
from convexcnn.report.page import Page, render
from convexcnn.report.results import FitResult
from convexcnn.report.run_files import RunFiles, read_run, write_atomically


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
    others = []
    if len(further) >= len(COLOURS):
        raise RunError(
            f"{len(further)} runs beside {run_folder} are too many for one chart; give 4"
        )
    if further:
        first = require_stack(run_folder, run.result)
        others = [(folder.name, read_beside(folder, first)) for folder in further]
    try:
        page, html = _draw(run, others)
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


def _draw(run: RunFiles, beside: Sequence[tuple[str, FitResult]]) -> tuple[Page, str]:
    """The page with its figures, and as HTML."""
    result = run.result
    if isinstance(result, FitResult):
        page = fit_page(run, result, beside)
    else:
        page = compare_page(run, result)
    return page, render(page)
