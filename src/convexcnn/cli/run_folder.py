"""A run folder that appears complete or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from convexcnn.callbacks import JsonLinesLogger, jsonable
from convexcnn.cli.console import printable
from convexcnn.errors import RunError
from convexcnn.files import not_readable, write_text

SETTINGS_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
LOCK_FILE = ".lock"
GROWING = "budget"
"""The setting that may be larger when an unfinished run goes on."""

AS_ESCAPES = "backslashreplace"
"""What becomes of the bytes of a file name that is not UTF-8: an escape, which JSON reads again."""


class RunFolder:
    """The folder RUN, written as its sibling RUN.partial and renamed when the block ends well.

    An existing RUN is kept unless `overwrite`, and then replaced only after success. When the
    block fails or is interrupted the partial folder is removed, unless `resumable` and there is
    more in it than settings and log: then it stays, and the next block with the same settings
    finds its files again. Its `budget` may then be larger: what is finished stays of use.

    Args:
        path: where the finished run is to be.
        settings: flat table of what the run depends on, written to `config.toml`.
        header: comment on top of `config.toml`, for instance the command.
        overwrite: replace a finished run, and drop a partial one with other settings.
        resumable: keep the partial folder when the block does not end well.

    Raises:
        RunError: RUN exists, is not a run, or another process is writing it.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        header: str = "",
        overwrite: bool = False,
        resumable: bool = False,
    ) -> None:
        self.path = path.resolve()
        self.partial = self.path.with_name(self.path.name + ".partial") if self.path.name else None
        self.settings = toml_table(settings)
        self.header = header
        self.overwrite = overwrite
        self.resumable = resumable
        self.resumed = self.given_more = False
        self._shown = path
        self._lock: IO[str] | None = None

    @property
    def folder(self) -> Path:
        """The folder to write into while the block runs."""
        assert self.partial is not None
        return self.partial

    def check(self) -> None:
        """Raise the error that entering would raise, before any work is done."""
        if self.partial is None:
            raise RunError(f"{self._shown} cannot hold a run; name a new folder with --out")
        if not _is_taken(self.path):
            return
        if not is_run(self.path):
            raise RunError(f"{self._shown} exists and is not a run; name another folder with --out")
        if not self.overwrite:
            raise RunError(
                f"{self._shown} already holds a run; name another folder with --out, "
                "or replace it with --overwrite"
            )

    def __enter__(self) -> RunFolder:
        self._undo_half_replacement()
        self.check()
        self._lock = _lock(self.folder, self._shown)
        try:
            self.check()  # another process may have finished this run before the lock was ours
            self._keep_or_clear()
            if not self.resumed or self.given_more:
                write_toml(self.folder / SETTINGS_FILE, self.settings, self.header)
        except BaseException:
            if [p.name for p in self.folder.iterdir()] == [LOCK_FILE]:
                shutil.rmtree(self.folder)
            self._unlock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kept = self.resumable and self._has_parts()
        try:
            if error is None:
                self._finish()
            elif not kept:
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._unlock()
        if isinstance(error, KeyboardInterrupt):
            if kept:
                raise RunError(
                    f"interrupted; what was finished is kept in {self._shown}.partial, "
                    "run the same command again to continue"
                ) from None
            raise RunError(f"interrupted; nothing was saved in {self._shown}") from None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`."""
        write_json(self.folder / RESULT_FILE, result)

    def log(self, event: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        JsonLinesLogger(self.folder / METRICS_FILE)(event)

    def _has_parts(self) -> bool:
        """Whether there is anything that a run could go on with."""
        return any(
            path.name not in (SETTINGS_FILE, METRICS_FILE, LOCK_FILE)
            for path in self.folder.iterdir()
        )

    def _keep_or_clear(self) -> None:
        written = self.folder / SETTINGS_FILE
        left = sorted(p for p in self.folder.iterdir() if p.name != LOCK_FILE)
        if self.resumable and written.exists():
            before = read_toml(written)
            self.given_more = _more(before.get(GROWING), self.settings.get(GROWING))
            if self.given_more:
                before[GROWING] = self.settings[GROWING]
            differences = _differences(before, self.settings)
            if not differences:
                self.resumed = True
                _end_at_a_line(self.folder / METRICS_FILE)
                return
            if not self.overwrite:
                raise RunError(
                    f"{self._shown}.partial holds an unfinished run with other settings "
                    f"({differences}); repeat those to continue it, or drop it with --overwrite"
                )
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _finish(self) -> None:
        _flush_to_disk(self.folder)
        if _is_taken(self.path):
            self.path.replace(self._replaced)
            try:
                self.folder.replace(self.path)
            except BaseException:
                self._undo_half_replacement()
                raise
            if not _remove(self._replaced):
                warnings.warn(
                    f"{self._replaced}, the run before this one, cannot be removed; remove it",
                    stacklevel=2,
                )
        else:
            self.folder.replace(self.path)
        (self.path / LOCK_FILE).unlink(missing_ok=True)

    @property
    def _replaced(self) -> Path:
        return self.path.with_name(self.path.name + ".replaced")

    def _undo_half_replacement(self) -> None:
        if self.path.name and is_run(self._replaced):
            if _is_taken(self.path):
                _remove(self._replaced)
            else:
                self._replaced.replace(self.path)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def unfinished_settings(path: Path) -> Path:
    """Return the settings file of the unfinished run that would become the run PATH.

    Raises:
        RunError: there is none.
    """
    run = path.resolve()
    if not run.name:
        raise RunError(f"{path} cannot hold a run; name a new folder with --out")
    settings = run.with_name(run.name + ".partial") / SETTINGS_FILE
    if not settings.is_file():
        raise RunError(
            f"{settings.parent} is not there: no unfinished run to resume; leave out --resume"
        )
    return settings


def is_run(path: Path) -> bool:
    """Say whether a folder looks like a finished run."""
    return (path / RESULT_FILE).is_file() and (path / SETTINGS_FILE).is_file()


def read_result(path: Path) -> dict[str, Any]:
    """Return the `result.json` of a finished run.

    Raises:
        RunError: the folder is no run, or its result is damaged.
    """
    if not path.exists():
        raise RunError(f"{path}: there is no such run; make one with 'convexcnn fit DATA --out'")
    if not is_run(path):
        raise RunError(f"{path} is not a run: it needs {RESULT_FILE} and {SETTINGS_FILE}")
    try:
        result = json.loads((path / RESULT_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise not_readable(path / RESULT_FILE, error) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path / RESULT_FILE} is damaged ({error}); train it again") from None
    if not isinstance(result, dict) or result.get("format") != 1:
        raise RunError(f"{path / RESULT_FILE} is not of format 1, the only one known here")
    return result


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object, indented, with a line end."""
    text = json.dumps(jsonable(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n", AS_ESCAPES)


def toml_table(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as TOML can hold them: without None, and names of files in UTF-8."""
    return {k: _in_utf8(v) for k, v in jsonable(settings).items() if v is not None}


def write_toml(path: Path, settings: Mapping[str, Any], header: str = "") -> None:
    """Write a flat table of settings under a comment of one line."""
    import tomli_w

    comment = f"# {printable(header)}\n" if header else ""
    write_text(path, comment + tomli_w.dumps(settings))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file.

    Raises:
        RunError: the file is missing or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file") from None
    except OSError as error:
        raise not_readable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid TOML: {error}") from None


def _in_utf8(value: Any) -> Any:
    return value.encode("utf-8", AS_ESCAPES).decode() if isinstance(value, str) else value


def _is_taken(path: Path) -> bool:
    """Say whether something is at a path already; an empty folder is not."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() or path.is_symlink()


def _lock(folder: Path, shown: Path) -> IO[str]:
    """Make the folder, and hold a lock in it that ends with this process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / LOCK_FILE).exists():
        raise RunError(f"{shown}.partial exists and is no unfinished run; move it away first")
    file = (folder / LOCK_FILE).open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(f"{shown} is being written by another process; wait for it") from None
    return file


def _remove(folder: Path) -> bool:
    """Remove a folder with all that is in it, read-only folders too; whether that worked."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _end_at_a_line(log: Path) -> None:
    """Cut the half line that a full disk may have left at the end of a log."""
    if log.exists():
        content = log.read_bytes()
        os.truncate(log, content.rfind(b"\n") + 1)


def _more(before: Any, now: Any) -> bool:
    """Whether there is more of something than before."""
    numbers = isinstance(before, (int, float)) and isinstance(now, (int, float))
    return numbers and bool(now > before)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key, 'unset')}" for key in keys)


def _flush_to_disk(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
