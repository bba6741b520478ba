"""The teacher's notebook runs, and what it claims holds."""

from __future__ import annotations

import json
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from pages import REPOSITORY

pytestmark = pytest.mark.thorough


PATH = REPOSITORY / "examples" / "where-sgd-gets-stuck.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stored_and_small() -> None:
    assert PATH.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """The names that the cells leave behind."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    backend, dtype = matplotlib.get_backend(), torch.get_default_dtype()
    matplotlib.use("Agg")
    try:
        for cell in CODE:
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
            plt.close("all")
    finally:
        torch.set_default_dtype(dtype)
        matplotlib.use(backend)
    return namespace


@pytest.mark.timeout(600)
def test_the_optimum_is_certified_and_a_network(ran: dict[str, Any]) -> None:
    certificate = ran["certificate"]
    assert certificate.relative_gap < 1e-7
    assert ran["reached"] == pytest.approx(certificate.primal, rel=1e-4)
    assert all(again.relative_gap < 1e-7 for again in ran["found"])
    assert ran["highest"] == pytest.approx(ran["lowest"], rel=1e-6)


@pytest.mark.timeout(600)
def test_starts_end_apart_and_none_below_the_bound(ran: dict[str, Any]) -> None:
    finite = ran["ends"][ran["ends"].isfinite()]
    assert finite.min() >= ran["certificate"].dual
    assert ran["polished"].min() >= ran["certificate"].dual * (1 - 1e-12)
    stuck = int((ran["polished"] > 1.01 * ran["certificate"].dual).sum())
    assert stuck >= ran["starts"] // 10
