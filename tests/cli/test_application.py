"""Errors become one line and an exit code, and nothing heavy is imported for help."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from commands import typed
from convexcnn.cli.application import cli, explain
from convexcnn.errors import DataError, RunError, SettingError
from small import stripes

HEAVY = ("torch", "numpy", "sklearn", "scipy", "PIL", "matplotlib", "jinja2", "rich")


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.list_commands(None))])  # type: ignore[arg-type]
def test_help_imports_nothing_heavy_and_is_quick(arguments: list[str]) -> None:
    code = (
        "import sys; from convexcnn.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as exit: assert exit.code == 0, exit.code\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    before = _seconds_of_children()
    subprocess.run([sys.executable, "-c", code, *arguments, "--help"], check=True)
    assert _seconds_of_children() - before < 0.5


def _seconds_of_children() -> float:
    """Processor time, which other work on this machine does not change."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_version() -> None:
    done = typed("--version")
    assert done.code == 0
    assert done.out.startswith("convexcnn, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fot"], "Error: there is no command 'fot'; did you mean 'fit'?"),
        (["xyz"], "Error: there is no command 'xyz'; choose from demo, fit"),
        (["fit"], "Error: Missing argument 'DATA'."),
        (["fit", "digits"], "Error: Missing option '--out'."),
        (["fit", "digits", "--out", "x", "--limt", "3"], "--limt"),
        (["compare", "digits", "--out", "x", "--epochs", "0"], "'--epochs': 0 is not"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = typed(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert message in done.err


def test_no_command_shows_the_help_and_is_wrong_use() -> None:
    done = typed()
    assert done.code == 2
    assert "Usage: convexcnn" in done.err


def test_wrong_use_with_json_is_an_object_on_stdout() -> None:
    done = typed("fit", "--json")
    assert done.code == 2
    assert "Missing argument" in done.json()["error"]
    assert done.err.startswith("Error: ")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (DataError("labels.csv:\n  empty"), "labels.csv: empty", 1),
        (SettingError("filter_size 40 is larger than the image"), "filter_size 40 is", 2),
        (RunError("x is not a run"), "x is not a run", 1),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left", 1),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), "a: No such file", 1),
        (MemoryError(), "not enough memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory", 1),
        (click.Abort(), "interrupted", 1),
        (KeyError("k"), "KeyError: 'k' (this is a bug; run again with --debug", 1),
        (AssertionError(), "AssertionError (this is a bug", 1),
    ],
)
def test_every_error_is_one_line(error: Exception, line: str, code: int) -> None:
    message, exit_code = explain(error)
    assert message.startswith(line)
    assert "\n" not in message
    assert exit_code == code


def test_debug_adds_the_traceback() -> None:
    done = typed("report", "no-such-run")
    assert done.code == 1
    assert "Traceback" not in done.err
    done = typed("report", "no-such-run", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("Error: no-such-run: there is no such run")


def test_a_closed_pipe_is_silent() -> None:
    command = f"'{sys.executable}' -m convexcnn --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_signal_in_a_finaliser_is_not_lost() -> None:
    code = """
import os, signal, time, weakref
from convexcnn.cli import application

class Held: pass

def work(*arguments, **settings):
    held = Held()
    weakref.finalize(held, os.kill, os.getpid(), signal.SIGTERM)
    del held
    time.sleep(30)

application.cli.main = work
application.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == "Error: interrupted\n"


def test_ctrl_c_before_the_modules_are_there_is_one_line() -> None:
    code = """
import sys, convexcnn.cli

class Interrupted:
    def find_spec(self, name, *_):
        if name == "convexcnn.cli.application":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
convexcnn.cli.main(["data", "list", "--json"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (1, "Error: interrupted\n")
    assert json.loads(done.stdout) == {"error": "interrupted"}


FULL = "stdout: cannot be written (No space left on device); free some space and run again"


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("data list > /dev/full", 1, f"Error: {FULL}\n"),
        ("data list --json > /dev/full", 1, f"Error: {FULL}\n"),
        ("--help > /dev/full", 1, "Error: No space left on device; free some space"),
        ("data nothing --json > /dev/full", 2, "Error: No such command 'nothing'"),
        ("data list 2> /dev/full", 0, ""),
        ("data nothing 2> /dev/full", 2, ""),
        ("data list >&-", 0, ""),
        ("data list 2>&-", 0, ""),
        ("data list >&- 2>&-", 0, ""),
        ("data nothing >&- 2>&-", 2, ""),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_full_and_closed_streams_are_no_bug(command: str, code: int, err: str) -> None:
    shell = f"'{sys.executable}' -m convexcnn {command}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


def test_what_stdout_cannot_show_is_escaped(tmp_path: Path) -> None:
    images, labels = stripes(20, 2)
    np.savez(tmp_path / "é.npz", images=images, labels=np.array(["é", "ø"])[labels])
    done = subprocess.run(
        [sys.executable, "-m", "convexcnn", "data", "info", "é.npz"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9" in done.stdout
