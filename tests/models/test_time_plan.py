"""A budget is shared among the blocks that are still to come, and is never overdrawn by plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convexcnn.models import Block, time_plan
from convexcnn.models.block_training import SOLVED_BETAS
from convexcnn.models.descent_memory import FEWEST
from convexcnn.models.neuron_network import BATCH, NeuronNetwork
from convexcnn.models.time_plan import (
    BEGUN,
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    MOST_STEPS,
    PROBED_STEPS,
    SPARE,
    BlockCost,
    HeadRates,
    TimePlan,
    seconds_of_a_step,
    seconds_to_load,
)
from convexcnn.patches.extract import PatchGeometry
from small import stripe_stream

COSTS = [
    BlockCost(1e-4, 2e-5, 1e-4, 100),
    BlockCost(3e-4, 4e-5, 1e-4, 200),
    BlockCost(1e-4, 3e-5, 1e-4, 100),
]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told."""
    now = [0.0]
    monkeypatch.setattr(time_plan.time, "perf_counter", lambda: now[0])
    return now


def plan(minutes: float | None) -> TimePlan:
    return TimePlan(minutes, COSTS, images=10_000, views=2, augmented=True, classes=10)


def fixed(numbers: range) -> float:
    return sum(COSTS[n - 1].fixed_seconds(10_000, 2, 10, HeadRates()) for n in numbers)


def test_all_blocks_get_as_many_seconds(clock):
    found, steps = plan(2.0), []
    # Blocks 2 and 3 see images that went through block 1, and block 3 those of block 2 as well.
    passing = [0.0, COSTS[0].passing, COSTS[0].passing + COSTS[1].passing]
    for number, (cost, before) in enumerate(zip(COSTS, passing, strict=True), 1):
        steps.append(found.steps(number, 7, 100))
        seconds = steps[-1] * 100 * (cost.descent + before)
        assert seconds == pytest.approx((SPARE * 120 - fixed(range(1, 4))) / 3, rel=0.01)
        clock[0] += seconds + fixed(range(number, number + 1))
    assert clock[0] == pytest.approx(SPARE * 120, rel=0.01)
    assert steps[0] > 2 * steps[1]


def test_what_a_block_leaves_goes_to_the_others(clock):
    found = TimePlan(5.0, COSTS, images=10_000, views=2, augmented=True, classes=10)
    share = (SPARE * 300 - fixed(range(1, 4))) / 3
    assert found.steps(1, 7, 100) == MOST_EPOCHS * 100
    clock[0] = MOST_EPOCHS * 10_000 * COSTS[0].descent + fixed(range(1, 2))
    seconds = found.steps(2, 7, 100) * 100 * (COSTS[1].descent + COSTS[0].passing)
    assert seconds > 1.2 * share


def test_a_slow_block_leaves_less_for_the_others(clock):
    found = plan(2.0)
    before = found.steps(2, 7, 100)
    clock[0] = 30.0
    assert found.steps(2, 7, 100) < before
    clock[0] = 1000.0
    assert found.steps(2, 7, 100) == 1


def test_seconds_before_an_interruption_count(clock):
    found, again = plan(2.0), plan(2.0)
    clock[0] = 20.0
    again.spent = 20.0
    assert again.elapsed == found.elapsed + 20
    assert again.steps(2, 7, 100) < found.steps(2, 7, 100)


def test_without_a_budget_nothing_is_planned(clock):
    assert plan(None).steps(1, 7, 100) == 7
    assert not plan(None).leaves_no_time_for(2)


def test_a_block_that_would_not_end_in_time_is_not_begun(clock):
    found = plan(2.0)
    assert not found.leaves_no_time_for(3)
    clock[0] = SPARE * 120 - 0.99 * fixed(range(3, 4))
    assert found.leaves_no_time_for(3)


def test_blocks_for_which_too_few_steps_are_left_are_not_planned(clock):
    slow = [COSTS[0], replace(COSTS[1], descent=2e-3), COSTS[2]]
    found, end = TimePlan(1.5, slow, images=10_000, views=2, augmented=True, classes=10), SPARE * 90
    least = FEWEST_EPOCHS * 10_000 * (2e-3 + COSTS[0].passing)
    assert (end - fixed(range(1, 3))) / 2 < least
    alone = (end - fixed(range(1, 2))) / (256 * COSTS[0].descent)
    assert found.steps(1, 7, 256) == int(alone)
    clock[0] = end - fixed(range(2, 3)) - 0.9 * BEGUN * least
    assert found.leaves_no_time_for(2)
    clock[0] = end - fixed(range(2, 3)) - 1.1 * BEGUN * least
    assert not found.leaves_no_time_for(2)


def test_blocks_whose_neurons_are_not_learned_leave_their_share(clock):
    given = [COSTS[0], replace(COSTS[1], descends=False), COSTS[2]]
    found = TimePlan(1.0, given, images=10_000, views=2, augmented=True, classes=10)
    half = (SPARE * 60 - fixed(range(1, 4))) / 2
    assert found.steps(1, 7, 100) * 100 * COSTS[0].descent == pytest.approx(half, rel=0.01)


def test_there_are_no_more_epochs_than_are_worth_their_time(clock):
    many = TimePlan(1e5, COSTS, images=100_000, views=2, augmented=True, classes=10)
    assert many.steps(1, 7, 100) == MOST_EPOCHS * 1000
    assert (
        TimePlan(1e5, COSTS, images=500, views=2, augmented=True, classes=10).steps(1, 7, 100)
        == MOST_STEPS
    )


def test_measuring_is_part_of_the_budget(clock, monkeypatch):
    def slow(*arguments, **options):
        clock[0] += 10.0
        return COSTS[0]

    monkeypatch.setattr(BlockCost, "of", slow)
    monkeypatch.setattr(HeadRates, "of", lambda *arguments: HeadRates())
    stream, place = stripe_stream(90), PatchGeometry((1, 8, 8), 3, 1, 1, 2)
    found = TimePlan.of(2.0, [Block()] * 2, [place] * 2, stream)
    assert found.elapsed == found.probing == 20.0
    assert TimePlan.of(None, [Block()] * 2, [place] * 2, stream).probing == 0.0


@pytest.mark.parametrize(("side", "most"), [(32, BATCH), (224, 200)])
def test_costs_are_measured_on_a_piece_of_a_mini_batch(side, most, monkeypatch):
    sizes, start = [], NeuronNetwork.add_gradient

    def noted(network, images, *rest):
        sizes.append(len(images))
        return start(network, images, *rest)

    monkeypatch.setattr(NeuronNetwork, "add_gradient", noted)
    place = PatchGeometry((3, side, side), 8, 8, 0, 2)
    BlockCost.of(Block(8, 8, 0, n_gates=800), place, "cpu", last=True)
    assert sizes[0] == FEWEST
    assert FEWEST < sizes[1] <= most
    assert len(sizes) <= 1 + PROBED_STEPS


def test_the_step_after_a_gradient_is_not_scaled_up(clock):
    class Network:
        def train_once(self, pieces, size):
            clock[0] += 100.0

        def add_gradient(self, images, targets, share):
            clock[0] += 0.01 * len(images)

        def take_step(self, images):
            clock[0] += 7.0

    images = torch.zeros(64, 1, 2, 2)
    found = seconds_of_a_step(Network(), images, torch.zeros(64, 2))
    assert found == pytest.approx(0.01 * 256 + 7)


def test_costs_are_measured_without_touching_the_random_state():
    before = torch.random.get_rng_state()
    small = BlockCost.of(Block(n_gates=4), PatchGeometry((3, 8, 8), 3, 1, 1, 2), "cpu", last=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert small.descent > 0
    assert small.responses > 0
    assert small.features == 16


def test_a_head_with_more_betas_or_classes_takes_longer():
    one = BlockCost.of(
        Block(n_gates=4, betas=1e-3), PatchGeometry((3, 8, 8), 3, 1, 1, 2), "cpu", last=True
    )
    several = BlockCost(one.descent, one.passing, one.responses, one.features)
    assert one.evaluations * SOLVED_BETAS == several.evaluations
    few, many = (several.fixed_seconds(1000, 2, classes, HeadRates()) for classes in (10, 100))
    assert one.fixed_seconds(1000, 2, 10, HeadRates()) < few < many


def test_the_rates_of_heads_are_measured():
    found = HeadRates.of(10, "cpu")
    assert 1e6 < found.thin < found.large < 1e16


def test_loading_counts_where_images_are_augmented_anew(clock):
    slow = TimePlan(2.0, COSTS, images=10_000, views=2, augmented=True, classes=10, loading=1e-3)
    assert slow.steps(1, 7, 100) < plan(2.0).steps(1, 7, 100)
    assert slow.steps(2, 7, 100) < plan(2.0).steps(2, 7, 100)
    stored, quick = (
        TimePlan(2.0, COSTS, images=10_000, views=1, augmented=False, classes=10, loading=loading)
        for loading in (1e-3, 0.0)
    )
    assert stored.steps(1, 7, 100) < quick.steps(1, 7, 100)
    assert stored.steps(2, 7, 100) == quick.steps(2, 7, 100)


def test_loading_is_measured():
    stream = stripe_stream(90, mirror=True)
    assert 0 < seconds_to_load(stream) < 1


def test_epochs_that_a_later_block_asks_for_are_kept_free_for_it(clock):
    fixed_epochs = replace(COSTS[2], descends=False, epochs=4)
    asked = TimePlan(
        2.0, [*COSTS[:2], fixed_epochs], images=10_000, views=2, augmented=True, classes=10
    )
    per_image = COSTS[2].descent + COSTS[0].passing + COSTS[1].passing
    left = SPARE * 120 - fixed(range(1, 4)) - 4 * 10_000 * per_image
    assert asked.steps(1, 7, 100) == int(left / 2 / (100 * COSTS[0].descent))
