"""`convexcnn report`: build the page of a run again."""

from __future__ import annotations

from pathlib import Path

import click

from convexcnn.cli.console import Console
from convexcnn.cli.options import FOLDER, output_options


@click.command(name="report", short_help="Build the report of a run again.")
@click.argument("run", type=FOLDER)
@click.option(
    "--beside",
    type=FOLDER,
    multiple=True,
    metavar="OTHER",
    help="Draw the accuracy of another stack against depth beside that of RUN; up to four times.",
)
@output_options
def command(run: Path, *, beside: tuple[Path, ...], as_json: bool) -> None:
    """Build RUN/report.html and RUN/figures again from the other files of RUN.

    The page is one file that needs no network. It is made at the end of every fit and compare;
    this command is for runs whose report was lost or made by an older version.
    """
    from convexcnn.cli.run_folder import read_result
    from convexcnn.report import build_report

    console = Console(as_json=as_json)
    for folder in (run, *beside):
        read_result(folder)
    page = build_report(run, beside)
    console.show(f"Report: {page}")
    console.result({"run": str(run), "report": str(page)})
