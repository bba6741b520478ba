"""Callbacks that keep the events of a training: as JSON lines, or for TensorBoard.

Every classifier has a parameter ``callback``, which is called with one event per finished phase or
logged step: a dictionary with ``phase``, ``step`` and what was measured. Both loggers here can be
copied and pickled, as searches over parameters do.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convexcnn.environment import import_extra
from convexcnn.errors import RunError
from convexcnn.files import not_written

Event = dict[str, Any]

NOT_MEASURED = ("step", "steps", "seconds", "epoch", "seed", "block")
"""Numbers of an event that say when, not what."""

LONGEST_EVENT = 2**20
"""Bytes of a first line that are looked at to see whether a file is a log."""


class JsonLinesLogger:
    """Appends every event to a file, one JSON object per line; NaN and infinity become null.

    Args:
        path: of the file, made if it is not there.

    Raises:
        RunError: the file cannot be written, or holds something else than such lines.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.is_file() and not _is_log(self.path):
            raise RunError(f"{self.path} holds no log of events; name another file")
        self._append("\n" if _ends_within_a_line(self.path) else "")

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._append(json.dumps(jsonable(event), allow_nan=False) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise not_written(self.path, error) from error


class TensorBoardLogger:
    """Writes what events measure as scalars ``phase/name`` for TensorBoard.

    Args:
        directory: of the event files, made if it is not there.

    Raises:
        RunError: the package tensorboard is not installed, or the folder cannot be written.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._seen: Counter[str] = Counter()
        self._writer = self._open()

    def __call__(self, event: Mapping[str, Any]) -> None:
        phase, step = str(event.get("phase", "training")), event.get("step")
        self._seen[phase] += 1
        at = step if isinstance(step, int) else self._seen[phase]
        for name, value in event.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in NOT_MEASURED:
                self._writer.add_scalar(f"{phase}/{name}", value, at)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file of this logger."""
        self._writer.close()

    def _open(self) -> Any:
        import_extra("tensorboard", "tensorboard", "logging for TensorBoard")
        from torch.utils.tensorboard import SummaryWriter

        try:
            return SummaryWriter(str(self.directory))
        except OSError as error:
            raise not_written(self.directory, error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "_seen": self._seen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._writer = self._open()


def _is_log(path: Path) -> bool:
    """Whether a file is empty or begins with a line that is a JSON object."""
    try:
        with path.open("rb") as file:
            first = file.readline(LONGEST_EVENT)
        return not first or isinstance(json.loads(first), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _ends_within_a_line(path: Path) -> bool:
    """Whether the last event of a log was cut off."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read() not in (b"", b"\n")
    except OSError:
        return False


def together(*callbacks: Callable[[Event], object]) -> Callable[[Event], None]:
    """Return one callback that calls several, in order."""

    def call_all(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    return call_all


def jsonable(value: Any) -> Any:
    """Return a value made of JSON's types only: NumPy and paths turned, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)
