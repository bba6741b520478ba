"""What the installed package promises: its public names, its version and its README."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import convexcnn

ROOT = Path(__file__).parents[1]
ORDER = [
    "errors",
    "files",
    "environment",
    "timing",
    "callbacks",
    "distributed",
    "data",
    "patches",
    "programs",
    "certificates",
    "solvers",
    "models",
    "costs",
    "explain",
    "report",
    "cli",
]
"""Imports run from right to left only."""


@pytest.mark.parametrize("name", convexcnn.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(convexcnn, name) is not None


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        convexcnn.nonsense  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert dir(convexcnn) == sorted(convexcnn.__all__)


def test_import_alone_is_light() -> None:
    code = (
        "import sys, convexcnn; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules); "
        "from convexcnn import load_dataset; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_version_everywhere() -> None:
    assert metadata.version("convexcnn") == convexcnn.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {convexcnn.__version__}\n" in citation


def test_types_are_shipped() -> None:
    assert convexcnn.__file__ is not None
    assert (Path(convexcnn.__file__).parent / "py.typed").exists()


def test_nothing_is_pickled() -> None:
    source = ROOT / "src" / "convexcnn"
    pickled = re.compile(r"^\s*(import|from) (pickle|joblib|cloudpickle)\b|torch\.load\(", re.M)
    found = [path for path in source.rglob("*.py") if pickled.search(path.read_text())]
    assert not found


def test_imports_run_one_way() -> None:
    source = ROOT / "src" / "convexcnn"
    for path in source.rglob("*.py"):
        own = path.relative_to(source).parts[0].removesuffix(".py")
        if own not in ORDER:
            continue
        for other in re.findall(r"(?:from|import) convexcnn\.(\w+)", path.read_text()):
            assert ORDER.index(other) <= ORDER.index(own), f"{path} imports convexcnn.{other}"


def test_certificates_and_solvers_share_nothing() -> None:
    for path in (ROOT / "src" / "convexcnn" / "solvers").rglob("*.py"):
        assert "convexcnn.certificates" not in path.read_text(), path


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        _normal(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    requirements = metadata.requires("convexcnn") or []
    needed = {_normal(re.split(r"[^\w.-]", r)[0]) for r in requirements} - {"convexcnn"}
    assert needed <= pinned


@pytest.mark.slow
def test_the_readme_example_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 0.7


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
