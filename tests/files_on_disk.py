"""Disks and files as tests need them, and as root does not meet them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest


def full_disk(*_: Any, **__: Any) -> None:
    """In place of what writes."""
    raise OSError(errno.ENOSPC, "No space left on device")


def closed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let no file of that name be opened, as its permissions would for anyone but root."""
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
