"""Files that are written whole or not at all, and text that tells whether it has been damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convexcnn.errors import RunError

Write = Callable[[Path], object]

CHECKSUM = "checksum"


def require_parent(path: Path) -> None:
    """Refuse a file whose folder is not there, before there is anything to write into it.

    Raises:
        RunError: it names the folder.
    """
    if not path.absolute().parent.is_dir():
        raise RunError(f"{path}: there is no folder {path.parent}; make it first")


def not_written(path: Path, error: OSError, what: str = "") -> RunError:
    """The error of a file or folder that the disk did not take, or of WHAT in it."""
    full = "; free some space and run again" if error.errno == errno.ENOSPC else ""
    return RunError(f"{path}: {what}cannot be written ({error.strerror or error}){full}")


def not_readable(path: Path, error: OSError) -> RunError:
    """The error of a file that is there, and that the system does not let us read."""
    return RunError(
        f"{path} cannot be read ({error.strerror or error}); "
        "see to its permissions and its disk, then run again"
    )


def write_whole(path: Path, write: Write) -> None:
    """Write a file under another name, flush it to disk, and rename it."""
    write_together({path: write})


def write_together(writers: Mapping[Path, Write]) -> None:
    """Write files of one folder that only mean something together.

    All of them are on the disk under other names before the first is renamed, so that a full disk
    takes nothing away. The last one is removed before, and comes back last: while it is not there,
    nothing reads the others.

    Raises:
        OSError: the disk does not take them.
        RunError: a device, a pipe or a folder has the name of one of them.
    """
    for path in writers:
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is no regular file, and is not replaced; name another file")
    temporary = {path: path.with_name(f".{path.name}.part") for path in writers}
    *_, last = writers
    try:
        for path, write in writers.items():
            write(temporary[path])
            with temporary[path].open("rb") as handle:
                os.fsync(handle.fileno())
        if len(writers) > 1:
            last.unlink(missing_ok=True)
        for path in writers:
            temporary[path].replace(path)
        _flush_names(last.parent)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write text whole or not at all, in UTF-8; ``errors`` as for ``str.encode``."""
    write_whole(path, lambda temporary: temporary.write_text(text, "utf-8", errors))


def sealed(description: Mapping[str, Any]) -> str:
    """JSON text of a description that carries a checksum of the rest of it."""
    return json.dumps({CHECKSUM: _checksum(description), **description})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what ``sealed`` wrote, without its checksum: for benchmarks and tests.

    A training tells a missing file from a damaged one: it reads the bytes for ``unsealed``.

    Raises:
        RunError: the file cannot be read, or is not what was written.
    """
    try:
        return unsealed(path.read_bytes(), path)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error


def unsealed(content: bytes, path: Path) -> dict[str, Any]:
    """What ``sealed`` wrote, from the content of its file.

    Raises:
        RunError: it is not what was written.
    """
    try:
        description = json.loads(content)
        found = description.pop(CHECKSUM)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    if found != _checksum(description):
        raise RunError(f"{path} is damaged: it is not what was written")
    return dict(description)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file: for benchmarks, fuzzing and tests.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error


def _checksum(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _flush_names(folder: Path) -> None:
    """Make sure that the new names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
