"""Where tests find real image sets: CONVEXCNN_DATA, else ../shared beside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Read when torch starts, here and in the programs that tests run. Test processes that run side by
# side share the processors: one thread each, and none that spins while it waits for another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
UNPACK = REPOSITORY.parent / "shared" / "data" / "unpack"
FOLDERS = {
    "cifar10": "cifar-10-batches-bin",
    "mnist": "MNIST/raw",
    "tinyimagenet20": "tinyimagenet20",
    "imagenette224": "imagenette224",
}


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from the name of an image set to its folder; tests without it are skipped.

    Sets are unpacked when first asked for, once per session.
    """
    unpacked = tmp_path_factory.mktemp("real-data")

    def folder_of(name: str) -> Path:
        here = os.environ.get("CONVEXCNN_DATA")
        if here and (Path(here) / FOLDERS[name]).is_dir():
            return Path(here) / FOLDERS[name]
        if not UNPACK.is_file():
            pytest.skip(f"{name} is neither in CONVEXCNN_DATA nor in {UNPACK.parent}")
        if not (unpacked / FOLDERS[name]).is_dir():
            subprocess.run(
                [sys.executable, UNPACK, unpacked, name], check=True, stdout=subprocess.DEVNULL
            )
        return unpacked / FOLDERS[name]

    return folder_of
