"""The command group, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

import click

from convexcnn import __version__
from convexcnn.cli.console import close_streams, discard, open_streams, printable
from convexcnn.distributed import ALONE, Processes, first_to_speak, launched, met
from convexcnn.errors import ConvexcnnError, LostProcessError, suggestion

DONE, FAILED, WRONG_USE = 0, 1, 2

SHARED = ("fit",)
"""Commands that several processes can share."""

_terminated = False
"""Whether a scheduler, or the launcher of a job, has told this process to end."""

FIRST_WORD = 2.0
"""Seconds that the other processes of a job leave to the first one to say why it ends."""

AGAIN = 0.05
"""Seconds after which a signal is taken up again that came while an object was being finalised."""


class LazyGroup(click.Group):
    """A group whose command NAME is the object `command` of a module, imported when needed."""

    def __init__(self, *args: object, modules: dict[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        command = importlib.import_module(self.modules[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-") or name in self.modules:
            return super().resolve_command(ctx, args)
        hint = suggestion(name, self.modules, "choose from")
        raise click.UsageError(f"there is no command '{name}'; {hint}", ctx)


@click.group(
    cls=LazyGroup,
    modules={
        name: f"convexcnn.cli.{name}"
        for name in (
            "demo",
            "fit",
            "plan",
            "compare",
            "certify",
            "evaluate",
            "predict",
            "explain",
            "report",
            "export",
            "data",
            "completion",
        )
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="convexcnn")
def cli() -> None:
    """Train convolutional image classifiers as convex programs, and see what they learned.

    \b
    A first look:       convexcnn demo
    Your own pictures:  convexcnn fit FOLDER --out runs/mine --image-size 32
    What each can do:   convexcnn COMMAND --help

    Exit codes: 0 done, 1 failed, 2 wrong use.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use.

    Every failure is one line `Error: ...` on stderr, and with `--json` also the object
    `{"error": ...}` on stdout. `--debug` adds the traceback. Of the processes of a job one speaks.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    open_streams()
    warnings.showwarning = _show_warning
    voice, processes = sys.stderr, ALONE
    # Read by torch's threads when they start: spinning ones lose a core to any busy neighbour.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        processes = launched()
        _take_part_in_job(processes, arguments)
        code = cli.main(arguments, prog_name="convexcnn", standalone_mode=False)
        close_streams()
        sys.exit(code if isinstance(code, int) else DONE)
    except (Exception, KeyboardInterrupt) as error:
        if processes.size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends what ends already
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            discard(sys.stdout)  # its reader went away, as `head` does: nothing is left to say
            sys.exit(FAILED)
        if "--debug" in options:
            traceback.print_exc()
        message, code = explain(error)
        if _terminated and processes.size > 1:
            message = f"another process of this job ended, or the job was cancelled: {message}"
        with suppress(OSError):
            if _speaks(error, processes):
                click.echo(f"Error: {message}", file=voice)
        with suppress(OSError):
            if "--json" in options:
                click.echo(json.dumps({"error": message}))
        close_streams()
        if met() and processes.writes:
            time.sleep(2 * FIRST_WORD)  # until the others know that it was said
        sys.exit(code)


def _take_part_in_job(processes: Processes, arguments: Sequence[str]) -> None:
    """Fall silent if this is not the first process of a job; refuse commands of one process."""
    if processes.size == 1:
        return
    # Read by torch when it is imported; what it would say of a lost process is said here.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if not processes.writes:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if arguments and arguments[0] in set(cli.modules) - set(SHARED):
        raise click.UsageError(
            f"'{arguments[0]}' runs in one process, and {processes.size} were started; start it "
            "without torchrun"
        )


def _speaks(error: BaseException, processes: Processes) -> bool:
    """Whether this process tells of an error: of a job, the first one that knows of any."""
    ended_by_others = isinstance(error, LostProcessError) or _terminated
    if ended_by_others and not processes.writes:
        time.sleep(FIRST_WORD)  # the first process knows what was saved
    return first_to_speak(processes)


def explain(error: BaseException) -> tuple[str, int]:
    """Return the line that tells a user about an error, and the exit code that goes with it."""
    if isinstance(error, click.ClickException):
        message = error.format_message()
        context = getattr(error, "ctx", None)
        if isinstance(error, click.UsageError) and context is not None:
            message = f"{message} (see '{context.command_path} --help')"
        return _one_line(message), error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted", FAILED
    if isinstance(error, ConvexcnnError):
        return _one_line(str(error)), error.exit_code
    if _is_out_of_memory(error):
        return "not enough memory; use fewer or smaller images, or a lower --memory-gb", FAILED
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        full = "; free some space and run again" if error.errno == errno.ENOSPC else ""
        return _one_line(f"{where}{error.strerror}{full}"), FAILED
    bug = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _one_line(f"{bug} (this is a bug; run again with --debug for the traceback)"), FAILED


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))


def _is_out_of_memory(error: BaseException) -> bool:
    # torch is not imported here: its CPU allocator raises a plain RuntimeError, its CUDA one
    # an OutOfMemoryError of its own.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _terminated
    _terminated = True
    if not _in_finaliser(frame):
        raise KeyboardInterrupt  # a scheduler's SIGTERM cleans up as Ctrl-C does
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, AGAIN)


def _in_finaliser(frame: FrameType | None) -> bool:
    """Whether Python would report an exception raised here, and go on as if nothing had been."""
    while frame is not None:
        if frame.f_code is weakref.finalize.__call__.__code__ or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"Warning: {_one_line(str(message))}", err=True)
