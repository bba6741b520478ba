"""`convexcnn demo`: a first look, offline."""

from __future__ import annotations

from pathlib import Path

import click

from convexcnn.cli.options import FOLDER, output_options, seed_option

DATA = "photos"
SETTINGS = {"n_gates": 48}
"""Modest enough for two cores and a minute; the rest are the estimator's defaults."""


@click.command(name="demo", short_help="Train on photographs, offline, and build the report.")
@click.option(
    "--out",
    type=FOLDER,
    default=Path("runs/demo"),
    show_default=True,
    metavar="RUN",
    help="Folder of the run; an earlier run there is replaced.",
)
@seed_option
@output_options
def command(out: Path, *, seed: int, as_json: bool) -> None:
    """Train a convex CNN that tells which photograph a 32x32 tile was cut from.

    The photographs come with scikit-image and scikit-learn, so nothing is downloaded:
    pip install 'convexcnn[demo]'. It ends with the path of the report.
    """
    from convexcnn.cli.console import Console
    from convexcnn.cli.training import fit_run

    console = Console(as_json=as_json)
    console.note("Training a convex CNN on tiles of ten photographs.")
    fit_run(DATA, out, {**SETTINGS, "seed": seed}, overwrite=True, console=console)
