"""Environments of the peers' own, so that none of their requirements touches the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALLS = {
    # Plain `pip install pyscnn` would bring another torch and gigabytes of CUDA.
    "scnn": (
        ["torch==2.13.0", "--index-url", "https://download.pytorch.org/whl/cpu"],
        ["numpy", "cvxpy", "scipy", "typing_extensions", "tqdm", "opt_einsum", "linalg_backends"],
        ["--no-deps", "pyscnn==0.0.10"],
    ),
    "adelie": (["adelie"],),
}


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment in ``folder``, made and filled when first asked for.

    If the torch of this environment can be imported from there, scnn uses it as it is.
    """
    python = folder / peer / "bin" / "python"
    done = folder / peer / ".installed"
    if done.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", folder / peer], check=True)
    for packages in INSTALLS[peer]:
        if packages[0].startswith("torch") and _lend_torch(python):
            continue
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    done.touch()
    return python


def _lend_torch(python: Path) -> bool:
    """Let the environment see the packages of the running one, torch among them."""
    try:
        import torch
    except ImportError:
        return False
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(f"{Path(torch.__file__).parents[1]}\n", "utf-8")
    return True
