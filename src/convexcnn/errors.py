"""The errors a user can meet: each is one line that names the file or argument and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConvexcnnError(Exception):
    """Base of every error that convexcnn raises on purpose; the command line exits with 1."""

    exit_code = 1


class DataError(ConvexcnnError, ValueError):
    """Images or labels that cannot be used: missing, truncated, corrupt or inconsistent."""


class SettingError(ConvexcnnError, ValueError):
    """A setting that cannot work, such as a filter larger than the image (exit code 2)."""

    exit_code = 2


class RunError(ConvexcnnError):
    """A run or model that is missing, damaged or already there, or whose numbers do not repeat."""


class LostProcessError(RunError):
    """Another process of the job has ended or does not answer."""


def suggestion(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """What to say of a name that is not known: the nearest one, or all that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise} {', '.join(names)}"
