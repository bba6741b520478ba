"""The wheel, built from the archive of the sources, does alone what the source folder does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from small import stripes

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
MEGABYTE = 2**20
EXTRAS = """
import sys

class NotInstalled:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
"""Hides what the extras bring: torch and this package look for some of it."""

OTHER_NAMES = {"scikit_image": "skimage"}
"""Modules whose packages are called otherwise."""

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
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the sources, unpacked."""
    pytest.importorskip("hatchling", reason="hatchling, which builds both, is not installed")
    folder = tmp_path_factory.mktemp("sources")
    (archive,) = built("sdist", ROOT, folder).glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the unpacked sources, as installers build it."""
    (wheel,) = built("wheel", sources, tmp_path_factory.mktemp("wheel")).glob("*.whl")
    return wheel


def built(target: str, source: Path, folder: Path) -> Path:
    """The folder in which hatchling leaves what it builds."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    return folder


def modules_of_extras() -> set[str]:
    """What the extras bring and the package itself does not need, by the names of modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    packages = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines}
    return {OTHER_NAMES.get(package, package) for package in packages} - {"convexcnn"}


def test_the_archive_holds_what_builds_and_tests(sources: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "Makefile"):
        assert (sources / name).read_bytes() == (ROOT / name).read_bytes()
    for name in ("tests/conftest.py", "docs/cli.md", "fuzz/run.py", "src/convexcnn/py.typed"):
        assert (sources / name).is_file()


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
    """Its dependencies are those of this environment, without its extras: nothing is fetched."""
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
    (packages / "dependencies.pth").write_text("\n".join([*here, "import no_extras"]) + "\n")
    (packages / "no_extras.py").write_text(EXTRAS.format(modules=modules_of_extras()))
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
    assert {"onnx", "tensorboard", "huggingface_hub", "skimage", "sphinx"} <= modules_of_extras()
    for name in ("onnx", "skimage"):
        tried = [python, "-c", f"import {name}"]
        shown = subprocess.run(tried, capture_output=True, text=True, env=environment)
        assert f"No module named '{name}'" in shown.stderr
    assert done.stdout.endswith(f"Report: {Path('run') / 'report.html'}\n")
    assert (tmp_path / "run" / "report.html").exists()
    command = [prefix / "bin" / "convexcnn", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.startswith("convexcnn, version ")
