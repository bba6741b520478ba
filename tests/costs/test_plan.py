"""Plans of every model: complete, monotone, and no settings accepted that fit refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from convexcnn.costs.hardware import EFFICIENCY, HOST, GivenGPUs, ThisMachine
from convexcnn.costs.plan import Model, Plan, make_plan
from convexcnn.costs.work import BlockShape, Work
from convexcnn.data.survey import DataSurvey
from convexcnn.errors import SettingError
from convexcnn.models import (
    Block,
    ConvexConvClassifier,
    LayerwiseConvexCNN,
    NonConvexConvClassifier,
)
from convexcnn.models.time_plan import BlockCost, HeadRates

SMALL = DataSurvey("small", 2000, 500, (3, 32, 32), 10)
MILLION = DataSurvey("ImageNet", 1_280_000, 50_000, (3, 224, 224), 1000, n_files=1_330_000)


class Unit:
    """A machine that does 1e9 of anything per second, or as many as it is given."""

    def __init__(self, rate: float = 1e9) -> None:
        self.rate = rate

    def seconds(self, work: Work) -> float:
        return (work.flops + work.bytes + work.files) / self.rate

    def block_cost(self, shape: BlockShape) -> BlockCost:
        return BlockCost(1e-3, 1e-4, 1e-3, shape.geometry.n_cells * shape.block.n_gates)

    def head_rates(self, classes: int) -> HeadRates:
        return HeadRates(self.rate, self.rate)

    def describe(self) -> dict[str, Any]:
        return {"name": "unit"}


MODELS: dict[str, Model] = {
    "direct": ConvexConvClassifier(n_gates=4, whiten=20),
    "kernel": ConvexConvClassifier(n_gates=64),
    "one beta": ConvexConvClassifier(n_gates=4, betas=0.1),
    "raw patches": ConvexConvClassifier(n_gates=4, whiten=None, gates="gaussian"),
    "cg": ConvexConvClassifier(n_gates=8, solver="cg"),
    "lbfgs": ConvexConvClassifier(n_gates=4, loss="cross_entropy", solver="lbfgs"),
    "admm": ConvexConvClassifier(n_gates=4, regulariser="group", solver="admm"),
    "admm on a kernel": ConvexConvClassifier(n_gates=64, regulariser="group", solver="admm"),
    "fista": ConvexConvClassifier(n_gates=4, regulariser="nuclear", solver="fista"),
    "sgd": ConvexConvClassifier(n_gates=4, solver="sgd"),
    "non-convex": NonConvexConvClassifier(),
    "small": LayerwiseConvexCNN(),
    "vgg11": LayerwiseConvexCNN(blocks="vgg11"),
    "budget": LayerwiseConvexCNN(budget=10),
    "random gates": LayerwiseConvexCNN(blocks=[Block(gates="gaussian", loss="squared")]),
    "on patches": LayerwiseConvexCNN(blocks=[Block(head="patches", n_gates=4), Block(n_gates=8)]),
}
UNFORESEEN: dict[str, Model] = {
    "interior-point": ConvexConvClassifier(regulariser="group", solver="interior-point", n_gates=2),
    "relu": ConvexConvClassifier(formulation="relu", regulariser="group", n_gates=4),
    "dual": ConvexConvClassifier(gates="dual", n_gates=4),
}


def plan(model: Model, survey: DataSurvey = SMALL, **options: Any) -> Plan:
    return make_plan(model, survey, Unit(), **options)


@pytest.mark.parametrize("name", [*MODELS, *UNFORESEEN])
def test_a_plan_is_json_with_finite_numbers(name: str) -> None:
    model = (MODELS | UNFORESEEN)[name]
    found = json.loads(json.dumps(plan(model).to_dict(), allow_nan=False))
    assert set(found) == {
        *("format", "kind", "data", "model", "solver", "phases", "seconds", "flops"),
        *("peak_memory_bytes", "machine_memory_bytes", "disk_bytes", "complete", "hardware"),
    }
    for phase in found["phases"]:
        assert set(phase) == {
            *("phase", "block", "flops", "seconds", "memory_bytes", "known", "note")
        }
        assert phase["seconds"] >= 0
        assert phase["memory_bytes"] <= found["peak_memory_bytes"]
    assert found["seconds"] == pytest.approx(sum(phase["seconds"] for phase in found["phases"]))
    assert found["flops"] == pytest.approx(sum(phase["flops"] for phase in found["phases"]))
    assert found["complete"] == (name in MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_more_images_cost_more(name: str) -> None:
    few, many = plan(MODELS[name]), plan(MODELS[name], replace(SMALL, n_train=8000))
    assert many.peak_memory > few.peak_memory
    if name != "budget":  # which is spent in either case
        assert many.seconds > few.seconds
        assert many.flops > few.flops


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("non-convex", "sgd")])
def test_a_certificate_costs_something(name: str) -> None:
    with_it, without = (plan(MODELS[name], certificate=given) for given in (True, False))
    assert with_it.flops > without.flops


def test_phases_have_the_names_of_a_run() -> None:
    from convexcnn import load_dataset

    digits = load_dataset("digits")
    model = ConvexConvClassifier(n_gates=2, filter_size=3, whiten=4, gates="sgd")
    survey = DataSurvey("digits", len(digits.train), 0, digits.image_shape, 10)
    titles = {phase.title for phase in plan(model, survey).phases}
    model.fit(digits.train.images, digits.train.labels)
    assert set(model.solution_.seconds) <= titles


def test_a_budget_is_spent() -> None:
    survey, machine = replace(SMALL, n_train=20_000), Unit(1e12)
    found = make_plan(LayerwiseConvexCNN(budget=10), survey, machine)
    steps = [phase for phase in found.phases if phase.name == "gates"]
    assert len(steps) == 4
    assert all("epochs" in phase.note for phase in steps)
    more = make_plan(LayerwiseConvexCNN(budget=20), survey, machine)
    assert more.flops > found.flops


def test_slow_heads_leave_a_budget_fewer_steps() -> None:
    class SlowHeads(Unit):
        def head_rates(self, classes: int) -> HeadRates:
            return HeadRates(self.rate, self.rate / 10)

    survey, model = replace(SMALL, n_train=20_000), LayerwiseConvexCNN(budget=20)
    fast, slow = (make_plan(model, survey, machine(1e12)) for machine in (Unit, SlowHeads))
    first = [next(p for p in found.phases if p.name == "gates") for found in (fast, slow)]
    assert first[0].flops > first[1].flops > 0


def test_blocks_that_would_not_end_are_left_out() -> None:
    found = plan(LayerwiseConvexCNN(budget=0.5), replace(SMALL, n_train=50_000))
    assert {phase.block for phase in found.phases} == {None, 1}


def test_baselines_take_the_minutes_they_are_given() -> None:
    model = LayerwiseConvexCNN(budget=10)
    more = plan(model, baselines=("alexnet", "vgg11")).seconds - plan(model).seconds
    assert more == pytest.approx(1200)


def test_maps_that_do_not_fit_go_to_a_file() -> None:
    large = replace(SMALL, n_train=50_000)
    assert plan(LayerwiseConvexCNN(memory_gb=40), large).temporary_bytes == 0
    assert plan(LayerwiseConvexCNN(memory_gb=6), large).temporary_bytes > 1e9


@pytest.mark.parametrize(
    ("model", "survey", "words"),
    [
        (ConvexConvClassifier(filter_size=40), SMALL, "filter_size 40"),
        (ConvexConvClassifier(n_gates=0), SMALL, "n_gates is 0"),
        (ConvexConvClassifier(n_gates=4000, memory_gb=0.1, solver="direct"), SMALL, "memory_gb"),
        (LayerwiseConvexCNN(blocks="nothing"), SMALL, "blocks 'nothing'"),
        (LayerwiseConvexCNN(blocks=[Block(filter_size=99)]), SMALL, "block 1"),
    ],
)
def test_what_fit_refuses_is_refused(model: Model, survey: DataSurvey, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        plan(model, survey)


def test_more_gpus_are_faster_but_not_at_one_factorisation() -> None:
    host = ThisMachine()
    work = {divides: Work("products", 1e15, divides=divides) for divides in (True, False)}
    one, eight = (GivenGPUs(number, 989.0, 3350.0, host) for number in (1, 8))
    assert one.seconds(work[True]) == pytest.approx(8 * eight.seconds(work[True]))
    assert one.seconds(work[False]) == eight.seconds(work[False])
    expected = 1e15 / (EFFICIENCY * 989e12 / 15)
    assert one.seconds(work[True]) == pytest.approx(expected)


def test_what_is_limited_by_memory_takes_the_bandwidth() -> None:
    gpu = GivenGPUs(1, 989.0, 1000.0, ThisMachine())
    assert gpu.seconds(Work("thin products", 1.0, 1e12)) == pytest.approx(1.0)
    assert gpu.seconds(Work("memory", bytes=2e12)) == pytest.approx(2.0)
    assert gpu.head_rates(10).thin == pytest.approx(10 * 2 * 1e12 / 4)


def test_imagenet_is_planned_for_gpus_without_having_it() -> None:
    class Host(ThisMachine):
        def seconds(self, work: Work) -> float:
            assert work.kind in HOST
            return 1.0

    model = LayerwiseConvexCNN(blocks="imagenet", memory_gb=400)
    plans = [make_plan(model, MILLION, GivenGPUs(g, 989.0, 3350.0, Host())) for g in (1, 8)]
    assert plans[0].seconds > plans[1].seconds
    assert plans[0].flops == plans[1].flops > 1e16
    assert plans[0].temporary_bytes > 1e11
    assert plans[0].peak_memory < 400e9


def test_nothing_to_do_takes_no_time_and_no_rate() -> None:
    here = ThisMachine()
    assert here.seconds(Work("products")) == 0.0
    assert not here.rates


def test_images_above_their_share_of_the_memory_lie_in_a_file() -> None:
    held, stored = (
        plan(ConvexConvClassifier(n_gates=4, memory_gb=memory_gb), survey)
        for memory_gb in (60, 50)
        for survey in [replace(SMALL, n_train=3_500_000, n_files=3_500_500)]
    )
    n_bytes = held.data.n_bytes
    assert held.temporary_bytes == 0.0
    assert stored.temporary_bytes == n_bytes
    assert held.base - stored.base > n_bytes
    in_place = plan(
        ConvexConvClassifier(n_gates=4, memory_gb=50),
        replace(SMALL, n_train=3_500_000, in_place=True),
    )
    assert in_place.temporary_bytes == 0.0
    assert held.base - in_place.base > n_bytes


@pytest.mark.parametrize(
    "numbers", [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, math.inf, None), (1, 1.0, -1.0)]
)
def test_gpus_need_positive_numbers(numbers: tuple[int, float, float | None]) -> None:
    with pytest.raises(SettingError, match="positive"):
        GivenGPUs(*numbers, ThisMachine())
