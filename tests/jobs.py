"""Start the processes of a job as a launcher would, on this machine or on hosts made of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LONG = 600
"""Seconds that no job here takes, even on a busy machine."""


def environment(rank: int, size: int, port: int, master: str = "127.0.0.1") -> dict[str, str]:
    """What torchrun would set for one process."""
    own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    own |= {"MASTER_ADDR": master, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    size: int, *command: str | Path, folders: Sequence[Path] | None = None
) -> list[subprocess.Popen[str]]:
    """Start a command in so many processes that find each other, each in a folder of its own."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(rank, size, port),
            cwd=None if folders is None else folders[rank],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finished(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of every process."""
    said = [process.communicate(timeout=LONG) for process in processes]
    return [(p.returncode, *words) for p, words in zip(processes, said, strict=True)]
