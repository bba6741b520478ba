"""What a result depends on besides its settings: versions, machine and memory."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

from convexcnn.errors import RunError

PACKAGES = ("convexcnn", "torch", "numpy", "scikit-learn", "safetensors", "pillow")

SAMPLED_EVERY = 0.05
"""Seconds between two looks at the memory."""


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that compute, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "convexcnn":  # used from its source folder without being installed
                from convexcnn import __version__

                found[package] = __version__
    return found


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Return a package that is no requirement of this one, imported when it is first needed.

    Raises:
        RunError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RunError(
            f"{purpose} needs the package {package.partition('.')[0]} ({error}); "
            f"pip install 'convexcnn[{extra}]'"
        ) from error


def machine() -> dict[str, str | int | float | None]:
    """Return the system, processor, usable cores, memory in GB and graphics processor."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": usable_cores(),
        "memory_gb": round(_total_memory_bytes() / 1e9, 1),
        "gpu": _gpu_name(),
    }


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes; its peak where that is not told."""
    return _status_bytes("VmRSS") or peak_memory_bytes()


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    On Linux the kernel's own high-water mark is read, because `getrusage` there also remembers
    the parent process that this one was forked from.
    """
    if (found := _status_bytes("VmHWM")) is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MemoryWatch:
    """Samples, while its block runs, the memory that no file stands behind (Linux only).

    The kernel keeps a high-water mark of all resident memory, but none of this part. The rest are
    pages of files, the code of libraries above all, which it takes back when memory is short.
    """

    def __init__(self) -> None:
        self._peak = _status_bytes("RssAnon")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while self._peak is not None and not self._over.wait(SAMPLED_EVERY):
            self._peak = max(self._peak, _status_bytes("RssAnon") or 0)

    def peaks(self) -> dict[str, int | None]:
        """Bytes so far: all resident memory of the process, and the part without files."""
        return {"resident": peak_memory_bytes(), "anonymous": self._peak}


def _status_bytes(name: str) -> int | None:
    """A figure in kB that Linux gives of this process, in bytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    values = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(value) * 1024 for value in values), None)


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")  # a command that never used torch needs no answer
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
