"""What a result records about where it was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import convexcnn
from convexcnn.environment import machine, peak_memory_bytes, usable_cores, versions


def test_versions_name_what_computes() -> None:
    found = versions()
    assert found["convexcnn"] == convexcnn.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy", "scikit-learn"} <= set(found)


def test_machine_is_json() -> None:
    described = json.loads(json.dumps(machine()))
    assert described["cores"] == usable_cores() <= (os.cpu_count() or 1)
    assert described["memory_gb"] > 0.1
    assert described["processor"]


def test_peak_memory_grows_with_use_and_forgets_the_parent() -> None:
    code = (
        "from convexcnn.environment import peak_memory_bytes as peak\n"
        "before = peak(); block = bytearray(200_000_000); print(before, peak())"
    )
    ballast = bytearray(300_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 200e6 < after - before + 50e6
    assert peak_memory_bytes() > len(ballast)
