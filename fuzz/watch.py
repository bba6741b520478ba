"""What a reader may do with a hostile file: raise a documented error, in time and memory."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401 - writes its own settings where it is first imported

import bundle
from convexcnn.errors import ConvexcnnError

SLOWEST_SECONDS = 10.0
"""Processor time that one small input may take."""

ADDRESS_SPACE = 10 * 2**30
"""Above it an allocation fails: the error is a finding, and the machine stays usable."""

MOST_MEMORY = 2**30
"""What one small input may add to the memory of the process, in bytes."""

PRETENDED_MEMORY = 2**28
"""The physical memory that readers are told, so that they refuse what is larger."""

FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class"),
)
CHANGES = {
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"), slice(0, 1)),
    **dict.fromkeys(("os.link", "os.symlink"), slice(1, 2)),
    "os.rename": slice(0, 2),
}
"""Events that change files, and which of their arguments are paths."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMELESS = getattr(os, "O_TMPFILE", -1)
"""A file that no folder names, such as that of images which do not fit in memory."""

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Finding:
    """An input that did what no input may do."""

    key: str
    what: str
    data: bytes


@dataclass
class Watch:
    """Runs a reader on inputs and says what went wrong.

    Args:
        read: the reader; it is given a folder with the files of an input.
        base: parts that every input has unless it says otherwise.
    """

    read: Read
    base: Mapping[str, bytes] = field(default_factory=dict)
    executions: int = 0
    refused: int = 0
    slowest: float = 0.0
    _folder: Path | None = None
    _touched: list[str] = field(default_factory=list)

    def __call__(self, data: bytes) -> Finding | None:
        """Read one input; None if all went as documented."""
        self.executions += 1
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            bundle.write({**self.base, **bundle.parse(data)}, folder)
            before, start = _peak_memory(), time.process_time()
            problem = self._problem(folder)
            seconds, grown = time.process_time() - start, _peak_memory() - before
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.slowest = max(self.slowest, seconds)
        if problem is None and seconds > SLOWEST_SECONDS:
            problem = "slow", f"{seconds:.0f} s of processor time"
        if problem is None and grown > MOST_MEMORY:
            problem = "memory", f"{grown / 2**20:.0f} MB more"
        if problem is None and self._touched:
            problem = "touched", f"touched {self._touched[0]}"
        return None if problem is None else Finding(*problem, data)

    def _problem(self, folder: Path) -> tuple[str, str] | None:
        global _at_work
        _install()
        _at_work, self._folder, self._touched = self, folder.resolve(), []
        try:
            self.read(folder)
        except ConvexcnnError as error:
            self.refused += 1
            return None if str(error).strip() else ("silent", "an error that says nothing")
        except Exception as error:  # anything else is what is looked for
            return _place(error), "".join(traceback.format_exception(error)[-6:])
        finally:
            _at_work = None
        return None

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what must not be done while a reader is at work; raising could be swallowed."""
        if event in FORBIDDEN:
            self._touched.append(f"{event}{arguments[:2]!r}")
        elif event == "open":
            path, _, flags = arguments
            nameless = isinstance(flags, int) and flags & NAMELESS == NAMELESS
            writes = isinstance(flags, int) and flags & WRITING and not nameless
            # a folder cannot be written; tempfile says so before it opens the nameless file in it
            if writes and not self._inside(path) and not _is_folder(path):
                self._touched.append(f"{path!r} for writing")
        elif event in CHANGES and arguments[-1] in (-1, None, *arguments[CHANGES[event]]):
            # a path relative to an open folder was judged when that folder was opened
            outside = [path for path in arguments[CHANGES[event]] if not self._inside(path)]
            self._touched += [f"{event} {path!r}" for path in outside]

    def _inside(self, path: object) -> bool:
        assert self._folder is not None
        if isinstance(path, int) or path == os.devnull:
            return True  # an open descriptor was judged when it was opened
        try:
            where = Path(os.path.realpath(os.fsdecode(path)))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return True  # no path: nothing can be opened by it
        compiled = where.parent.name == "__pycache__"  # by the first import of a module
        return compiled or where == self._folder or self._folder in where.parents


def _is_folder(path: object) -> bool:
    try:
        return os.path.isdir(path)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


_at_work: Watch | None = None


@cache
def _install() -> None:
    """Hear of what the interpreter does; a hook cannot be taken away again."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _at_work is not None:
            _at_work.audit(event, arguments)

    sys.addaudithook(hook)


def limit_this_process() -> None:
    """Bound the memory, and tell readers that there is little of it."""
    from convexcnn.data import limits

    limits.machine_memory = lambda: PRETENDED_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def name_of(data: bytes) -> str:
    """The file name of an input: the start of its digest."""
    return hashlib.sha256(data).hexdigest()[:16]


def _place(error: Exception) -> str:
    """What tells one finding from another: the error, and the line of ours that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "convexcnn" in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.name}"


def _peak_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
