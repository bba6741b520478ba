"""What the record of a descent says of itself: its name, and what certifies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import typed
from small import stripes_file

SMALL = ["--filter-size", "3", "--whiten", "4", "--no-certificate", "--json"]
GATES = ["--gates", "gaussian", "--n-gates", "3", "--solver", "sgd"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes_file(tmp_path_factory.mktemp("data") / "stripes.npz", 60)


@pytest.mark.parametrize(
    ("formulation", "advice"),
    [
        ("gated", "descent has no tolerance: convexcnn certify says how far it got"),
        ("relu-penalised", "descent has no tolerance"),
    ],
)
def test_certify_is_advised_only_where_it_certifies(
    data: Path, tmp_path: Path, formulation: str, advice: str
) -> None:
    options = ["--formulation", formulation, "--beta", "0.01", *GATES, *SMALL]
    (block,) = typed("fit", data, "--out", tmp_path / "run", *options).json()["blocks"]
    assert block["solver"]["advice"] == advice
    assert (typed("certify", tmp_path / "run", data).code == 0) == ("certify" in advice)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_time_of_a_descent_has_its_name(data: Path, tmp_path: Path, solver: str) -> None:
    options = ["--formulation", "non-convex", "--n-filters", "2", "--solver", solver, *SMALL]
    result = typed("fit", data, "--out", tmp_path / "run", *options).json()
    assert next(iter(result["phases"])) == solver
