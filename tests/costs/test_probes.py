"""Every rate can be measured, here and now, and is a positive number."""

from __future__ import annotations

import math

import pytest

from convexcnn import timing
from convexcnn.costs import probes
from convexcnn.costs.hardware import SAME_AS, ThisMachine
from convexcnn.costs.work import BlockShape, FeatureShape, Work
from convexcnn.models import Block
from convexcnn.patches.extract import PatchGeometry

SHAPE = FeatureShape(PatchGeometry((3, 8, 8), 3, 2, 0, 1), 4, 5, 3)
BLOCK = BlockShape.of(Block(n_gates=4), PatchGeometry((3, 8, 8), 3, 1, 1, 2), 10)
SHAPES = {
    "products": (40, 24),
    "products in float64": (40, 24),
    "thin products": (8, 64),
    "thin products in float64": (8, 64),
    "features": SHAPE,
    "features in float64": SHAPE,
    "certificate features": SHAPE,
    "gate descent": SHAPE,
    "memory": None,
    "host memory": None,
    "decoding": ((), (12, 10)),
    "descent": BLOCK,
    "passing": BLOCK,
    "responses": BLOCK,
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(probes, "THIN_BYTES", 2**16)
    monkeypatch.setattr(probes, "WORK_PER_RUN", 1e5)


def test_every_kind_has_a_shape_here() -> None:
    assert set(probes.MEASURES) | {"descent", "passing", "responses"} == set(SHAPES)
    assert set(SAME_AS.values()) <= set(SHAPES)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_rate_is_measured_once(kind: str) -> None:
    machine = ThisMachine()
    found = machine.rate(kind, SHAPES[kind])
    assert 0 < found < math.inf
    assert machine.rate(kind, SHAPES[kind]) == found
    (entry,) = machine.describe()["rates"]
    assert entry["per_second"] == found


def test_seconds_follow_from_rates() -> None:
    machine = ThisMachine()
    kinds = {("products", (8, 8)): 2e9, ("memory", None): 1e9, ("decoding", None): 10.0}
    machine.rates = {(*kind, "cpu"): rate for kind, rate in kinds.items()}
    assert machine.seconds(Work("products", 4e9, 1e12, shape=(8, 8))) == 2.0
    assert machine.seconds(Work("memory", bytes=3e9)) == 3.0
    assert machine.seconds(Work("decoding", files=50)) == 5.0
