"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class NamedPath(click.Path):
    """A path that is not empty: an empty one would be the folder where the command is typed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty; name a file or folder", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = NamedPath(file_okay=False, path_type=Path)
FILE = NamedPath(dir_okay=False, path_type=Path)
PICTURES = NamedPath(path_type=Path)

LARGEST_SEED = 2**32 - 1
"""That of `models.parameters`, which would import numpy for a page of help."""

SEED = click.IntRange(min=0, max=LARGEST_SEED)


def output_options(command: Command) -> Command:
    """Add `--json` and `--debug`."""
    # The traceback is printed where errors end, in application.main, which reads the flag itself.
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        help="Print the traceback of an error as well.",
    )
    as_json = click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object on stdout and nothing else there.",
    )
    return as_json(debug(command))


def data_options(command: Command) -> Command:
    """Add the options that say how DATA is read."""
    options = (
        click.option(
            "--root",
            type=FOLDER,
            help="Folder that holds the official files of a data set given by name.",
        ),
        click.option(
            "--download",
            is_flag=True,
            help="Fetch the official files if they are not there, and check their checksums.",
        ),
        click.option(
            "--skip-bad",
            is_flag=True,
            help="Leave out images that cannot be read, and name them, instead of stopping.",
        ),
        click.option(
            "--image-size",
            type=click.IntRange(min=1),
            metavar="PIXELS",
            help="Resize images to this height and width: until they just cover it, then the "
            "centre is cut out.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def limit_option(command: Command) -> Command:
    """Add `--limit`."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Train on N images only, drawn so that every class keeps its share.",
    )(command)


def seed_option(command: Command) -> Command:
    """Add `--seed`."""
    return click.option(
        "--seed",
        type=SEED,
        metavar="N",
        default=0,
        show_default=True,
        help="Seed of everything random.",
    )(command)


def run_seed_option(command: Command) -> Command:
    """Add the `--seed` of commands that read DATA as RUN read it: None if it is not given."""
    return click.option(
        "--seed",
        type=SEED,
        metavar="N",
        help="Seed of everything random, such as which images are set aside.  [default: of RUN]",
    )(command)


def run_options(command: Command) -> Command:
    """Add `--overwrite`, `--device`."""
    options = (
        click.option("--overwrite", is_flag=True, help="Replace RUN, once the new one is done."),
        click.option(
            "--device",
            metavar="DEVICE",
            help="Where to compute: cpu, cuda, cuda:1, or auto.  [default: auto]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
