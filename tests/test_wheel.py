"""The wheel alone, in an environment of its own, does what the source folder does."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from small import stripes

ROOT = Path(__file__).parents[1]
MEGABYTE = 2**20
DEMO = """
import sys
import numpy as np
import convexcnn
from convexcnn.cli import demo, main

assert convexcnn.__file__.startswith(sys.prefix), convexcnn.__file__
demo.DATA = sys.argv[1]
demo.SETTINGS = {"filter_size": 3, "whiten": 8, "gates": "gaussian", "n_gates": 4}
main(["demo", "--out", sys.argv[2]])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source folder."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*build, "--directory", folder], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_small_and_whole(wheel: Path) -> None:
    assert wheel.stat().st_size < MEGABYTE
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "convexcnn/py.typed" in inside
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "convexcnn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= inside
    beside = {name for name in inside - files if ".dist-info/" not in name}
    assert beside == set()


def test_the_wheel_alone_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment: nothing is fetched."""
    import numpy as np

    prefix = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    python = prefix / "bin" / "python"
    (packages,) = prefix.glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched last, and its own .pth files are not read: an
    # editable install there stays unseen.
    here = [
        folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")
    ]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--ignore-installed", "--disable-pip-version-check"]
    subprocess.run([*install, *offline, wheel], check=True)

    images, labels = stripes(60)
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    done = subprocess.run(
        [python, "-c", DEMO, "tiny.npz", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Report: {Path('run') / 'report.html'}\n")
    assert (tmp_path / "run" / "report.html").exists()
    command = [prefix / "bin" / "convexcnn", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.startswith("convexcnn, version ")
