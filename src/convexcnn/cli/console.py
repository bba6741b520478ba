"""What commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from convexcnn.callbacks import jsonable
from convexcnn.files import not_written

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Callback = Callable[[dict[str, Any]], None]

PLAIN_SECONDS = 10.0
"""Seconds between two progress lines where stderr is no terminal."""

UNLIMITED_WIDTH = 100_000
"""Columns of a table that goes to a file or pipe: its lines are never broken."""


class Console:
    """One command's voice: a single JSON object on stdout with `as_json`, else text for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def note(self, text: str) -> None:
        """Print one line to stderr; what it does not take is no reason to end the work."""
        try:
            click.echo(printable(text), err=True)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            discard(sys.stderr)

    def show(self, text: str = "") -> None:
        """Print text to stdout, unless the result goes there as JSON."""
        if not self.as_json:
            with _results():
                click.echo("\n".join(printable(line) for line in text.split("\n")))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table to stdout: the first column left-aligned, the others right-aligned."""
        if self.as_json:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(
                Text(printable(column)), justify="right" if number else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
        with _results():
            RichConsole(highlight=False, width=width).print(table)
            click.echo()

    def result(self, result: Mapping[str, Any]) -> None:
        """Print the command's one JSON object to stdout, if it was asked for."""
        if self.as_json:
            with _results():
                click.echo(json.dumps(jsonable(result), allow_nan=False))

    @contextmanager
    def progress(self) -> Iterator[Callback]:
        """Yield a callback for training events: bars on a terminal, plain lines elsewhere."""
        if not sys.stderr.isatty():
            yield _plain_progress(self.note)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bars:
            yield _bar_progress(bars)


@contextmanager
def _results() -> Iterator[None]:
    """Name stdout if what is printed does not fit there; a reader who goes away is no error."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        discard(sys.stdout)
        raise not_written(Path("stdout"), error) from error


def open_streams() -> None:
    """Let stdout and stderr take everything: nowhere if closed, in escapes if of few letters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif not str(getattr(stream, "encoding", "utf-8")).lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Say what is left to say, so that Python finds nothing to complain of at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard(stream)


def discard(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, nowhere."""
    with suppress(OSError):  # a stream in memory
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(line: str) -> str:
    """Return a line with what a terminal would obey, or cannot show, written as an escape.

    Names of files and classes come from anywhere.
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c
        for c in line
    )


def percent(fraction: float | None) -> str:
    """Return an accuracy as people read it, such as `71.5 %`."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def duration(seconds: float) -> str:
    """Return a time as people read it, such as `12.3 s` or `2 min 5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _title(event: Mapping[str, Any]) -> str:
    """Return what an event is a step of, such as `statistics` or `gated, seed 0`."""
    if "formulation" in event and "seed" in event:
        return f"{event['formulation']}, seed {event['seed']}"
    return str(event.get("phase", "training"))


def _metrics(event: Mapping[str, Any]) -> str:
    skipped = ("step", "steps", "seconds", "seed", "epoch", "block")
    shown = (
        f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in event.items()
        if key not in skipped and isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    return "  ".join(shown)


def _plain_progress(note: Callable[[str], None]) -> Callback:
    start, last_title, last_time = time.monotonic(), "", 0.0

    def callback(event: dict[str, Any]) -> None:
        nonlocal last_title, last_time
        title, now = _title(event), time.monotonic()
        finished = event.get("steps") is not None and event.get("step") == event["steps"]
        if title == last_title and not finished and now - last_time < PLAIN_SECONDS:
            return
        last_title, last_time = title, now
        count = f" {event['step']}/{event['steps']}" if event.get("steps") else ""
        # since the start, as clocks of parts of the work would seem to run backwards
        note(f"{title}{count}  {_metrics(event)}".rstrip() + f"  ({duration(now - start)})")

    return callback


def _bar_progress(bars: Progress) -> Callback:
    """One bar for every phase that counts steps; a line for every phase that only ends."""
    tasks: dict[str, TaskID] = {"": bars.add_task("training", total=None, metrics="")}

    def callback(event: dict[str, Any]) -> None:
        title = _title(event)
        if not event.get("steps"):
            bars.console.print(f"{title}  {_metrics(event)}".rstrip(), markup=False)
            return
        if title not in tasks:
            tasks[title] = bars.add_task(title, total=event["steps"], metrics="")
        bars.update(tasks[title], completed=event["step"], metrics=_metrics(event))

    return callback
