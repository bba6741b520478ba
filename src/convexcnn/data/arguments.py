"""What a caller gives by hand, checked before any work: whole numbers and paths."""

from __future__ import annotations

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from convexcnn.errors import DataError, SettingError

TOO_MUCH = 1e100
"""More than is meant by any number, and few enough to reckon with."""


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least ``least``; true and false are none.

    Raises:
        SettingError: it names the argument, its value and what it may be.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SettingError(f"{name} is {value!r}; give a whole number, {least} or more")


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no positive number, and infinity.

    Raises:
        SettingError: it names the argument, its value and what it may be.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value < TOO_MUCH:
        raise SettingError(f"{name} is {value!r}; give a positive number")


def as_path(name: str, given: Any) -> Path:
    """The path that was given, with ``~`` written out; nothing need be there.

    Raises:
        SettingError: it is no path.
        DataError: no file can be looked for there.
    """
    if not isinstance(given, str | os.PathLike) or given == "":
        raise SettingError(f"{name} is {given!r}; give a path")
    try:
        path = Path(given).expanduser()
        path.exists()
    except TypeError as error:
        raise SettingError(f"{name} is {given!r}; give a path that is text") from error
    except RuntimeError as error:
        raise DataError(f"{given}: there is no such user; write the folder out") from error
    except OSError as error:
        raise DataError(
            f"{given}: cannot be looked for ({error.strerror}); correct the path"
        ) from error
    return path
