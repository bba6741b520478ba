"""Column generation on neurons: the optimum never rises, and the ascents find steep neurons."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from convexcnn.models import Block, LayerwiseConvexCNN, neuron_columns, time_plan
from small import generator, one_hot, stripes
from tiny_models import ON_PATCHES, TINY_NEURONS
from tiny_models import layerwise as stack

IMAGES, LABELS = stripes(60, channels=2)
ONE = Block(stride=2, n_gates=7, gates="dual", epochs=12, betas=0.01, tolerance=1e-4)


def train(*blocks: Block, **settings: Any) -> tuple[LayerwiseConvexCNN, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    model = stack(blocks=blocks, callback=events.append, **settings)
    return model.fit(IMAGES, LABELS), events


def rounds_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["phase"].endswith(": column generation")]


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("regulariser", ["l2", "group", "nuclear"])
def test_the_optimum_never_rises(regulariser, loss):
    model, events = train(replace(ONE, regulariser=regulariser, loss=loss))
    rounds = rounds_of(events)
    assert [event["step"] for event in rounds] == [1, 2, 3]
    assert {event["beta"] for event in rounds} == {0.01}
    objectives = [event["objective"] for event in rounds]
    objectives.append(model.certificates_[0].primal)
    for before, after in itertools.pairwise(objectives):
        assert after <= before * (1 + 2e-4)
    assert objectives[-1] < objectives[0]
    assert model.certificates_[0].relative_gap <= 1e-4
    assert model.blocks_[0].filters.shape == (7, 2, 3, 3)


def test_the_optimum_never_rises_on_patches_either():
    block = Block(
        stride=2, n_gates=7, gates="dual", n_neurons=5, whiten=4, betas=0.01, **ON_PATCHES
    )
    model, events = train(block, replace(block, n_gates=3))
    first = [event for event in rounds_of(events) if event["block"] == 1]
    objectives = [event["objective"] for event in first] + [model.certificates_[0].primal]
    assert len(objectives) == 4
    for before, after in itertools.pairwise(objectives):
        assert after <= before * (1 + 1e-5)
    assert [block.n_gates for block in model.blocks_] == [7, 3]


def test_held_out_images_choose_one_beta_for_all_rounds():
    _, events = train(replace(ONE, betas=[1.0, 0.01, 1e-4]))
    betas = {event["beta"] for event in rounds_of(events)}
    assert len(betas) == 1
    assert betas <= {1.0, 0.01, 1e-4}


def test_its_neurons_lower_the_optimum_more_than_patches_and_chance_do():
    found = {}
    for gates in ("dual", "patches", "gaussian"):
        # Next to nothing is weighed, so that it does not matter how long gates are.
        model, _ = train(replace(ONE, gates=gates, loss="squared", betas=1e-7))
        found[gates] = model.certificates_[0].primal
    assert found["dual"] < min(found["patches"], found["gaussian"])


def test_ascents_end_at_steeper_neurons_than_a_thousand_random_ones(monkeypatch):
    """|S(a)| of the head without neurons, by plain convolutions in float64."""
    heads = []

    class Recorded(neuron_columns._GrowingHead):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            heads.append(self)

    monkeypatch.setattr(neuron_columns, "_GrowingHead", Recorded)
    model, events = train(replace(ONE, epochs=300), augment="none")
    (head,) = heads
    images = torch.cat([images for images, _ in model.training_stream(IMAGES, LABELS).blocks(60)])
    rows = model._held_out(model.training_stream(IMAGES, LABELS)).kept
    targets = one_hot(LABELS[rows], 3)
    left = torch.from_numpy(targets - targets.mean(0))

    def slopes(gates):
        filters, thresholds = (part.double() for part in head.transform.to_filters(gates))
        filters = filters.view(-1, 2, 3, 3)
        responses = torch.nn.functional.conv2d(images[rows].double(), filters, thresholds, 2, 1)
        pooled = torch.nn.functional.adaptive_avg_pool2d(responses.relu(), 2)
        return torch.einsum("nk,ngrc->gkrc", left, pooled).flatten(1).norm(dim=1) / len(rows)

    first = head.gates[:1]
    random = torch.nn.functional.normalize(
        torch.randn(1000, head.gates.shape[1], generator=generator()), dim=1
    )
    assert float(first.norm()) == pytest.approx(1, abs=1e-5)
    assert slopes(first) > slopes(random).max()
    assert rounds_of(events)[0]["slope"] == pytest.approx(float(slopes(first)), rel=0.1)


def test_training_twice_and_on_a_checkpoint_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(time_plan, "MOST_STEPS", 400)
    blocks = [replace(block, gates="dual", epochs=None) for block in TINY_NEURONS]
    settings = {"augment": "flip+crop", "budget": 60.0}

    def interrupt(event):
        if event["phase"] == "block 2: column generation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stack(blocks=blocks, checkpoint=tmp_path, callback=interrupt, **settings).fit(
            IMAGES, LABELS
        )
    planned = (tmp_path / "block2.plan.json").read_bytes()
    (tmp_path / "copy").mkdir()
    for path in tmp_path.glob("block*"):
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    one, other = (
        stack(blocks=blocks, checkpoint=folder, **settings).fit(IMAGES, LABELS)
        for folder in (tmp_path, tmp_path / "copy")
    )
    np.testing.assert_array_equal(one.scores(IMAGES), other.scores(IMAGES))
    assert (tmp_path / "block2.plan.json").read_bytes() == planned
