"""Type commands as a user does, in this process."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import Any

import pytest

from convexcnn.cli.application import main


@dataclass(frozen=True)
class Done:
    """What a command did: its exit code, and what it said on stdout and stderr."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object that `--json` prints."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def typed(*words: object) -> Done:
    """Type `convexcnn` and these words; only `--debug` may show a traceback."""
    # as strict as a terminal: a string in memory would take what is no UTF-8
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    out.seek(0)
    err.seek(0)
    assert isinstance(exit_.value.code, int)
    done = Done(exit_.value.code, out.read(), err.read())
    assert "--debug" in words or "Traceback" not in done.err, done.err
    return done
