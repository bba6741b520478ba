"""The greedy stack without convexity: blocks learn one after the other, frozen ones stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.models import Block, GreedyCNN, load_model, save_model
from convexcnn.models.greedy import GreedyNetwork, Stage
from convexcnn.models.stack_settings import DOWNSAMPLINGS
from small import stripes

IMAGES, LABELS = stripes(90)
BLOCKS = [
    Block(n_gates=8, downsample="average"),
    Block(n_gates=6, filter_size=2, padding=0, downsample="space-to-depth", pooling=1),
    Block(n_gates=5, filter_size=1, padding=0, pooling=1),
]


def greedy(**kwargs: Any) -> GreedyCNN:
    settings = {"blocks": BLOCKS, "budget": None, "epochs": 8, "batch_size": 16, "augment": "crop"}
    return GreedyCNN(**{**settings, "learning_rate": 0.1, **kwargs})


@pytest.fixture(scope="module")
def model() -> GreedyCNN:
    """A trained stack; not to be changed."""
    return greedy().fit(IMAGES, np.array(["a", "b", "c"])[LABELS])


def test_it_learns_block_after_block(model):
    new_images, new_labels = stripes(60, seed=1)
    assert (model.predict(new_images) == np.array(["a", "b", "c"])[new_labels]).mean() > 0.8
    assert len(model.block_accuracies_) == 3
    assert model.validation_accuracy_ == pytest.approx(model.block_accuracies_[-1])
    assert [event["block"] for event in model.curve_] == sorted(e["block"] for e in model.curve_)
    assert 23 < model.n_epochs_ <= 24
    steps = [event["step"] for event in model.curve_]
    assert steps == sorted(steps)


def test_its_last_head_sees_what_the_last_stage_was_trained_on(model):
    network = model.network_
    last = list(network.stages())[-1].eval()
    images = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), last(images))


def test_training_a_block_changes_no_earlier_one():
    network = GreedyNetwork(BLOCKS, (1, 8, 8), 3)
    first, second = list(network.stages())[:2]
    first.eval()
    before = {name: tensor.clone() for name, tensor in network.blocks[0].state_dict().items()}
    second.train()
    second(torch.randn(16, 1, 8, 8)).square().sum().backward()
    assert not network.blocks[0].training
    assert all(parameter.grad is None for parameter in network.blocks[0].parameters())
    assert all(parameter.grad is not None for parameter in second.parameters())
    for name, tensor in network.blocks[0].state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_stage_has_the_weights_of_its_block_and_head_only():
    network = GreedyNetwork(BLOCKS, (3, 9, 9), 3)
    stage = list(network.stages())[1]
    assert isinstance(stage, Stage)
    expected = {id(p) for m in (network.blocks[1], network.heads[1]) for p in m.parameters()}
    assert {id(p) for p in stage.parameters()} == expected
    assert stage(torch.randn(2, 3, 9, 9)).shape == (2, 3)


@pytest.mark.parametrize("how", DOWNSAMPLINGS)
def test_every_down_sampling_of_a_stack_is_there(how):
    network = GreedyNetwork([Block(n_gates=4, downsample=how), BLOCKS[2]], (1, 9, 9), 3)
    assert network(torch.randn(2, 1, 9, 9)).shape == (2, 3)


def test_minutes_are_shared_by_the_blocks():
    model = greedy(budget=3 / 60, epochs=None).fit(IMAGES, LABELS)
    ends = [max(e["seconds"] for e in model.curve_ if e["block"] == b) for b in (1, 2, 3)]
    assert ends == pytest.approx([1, 2, 3], abs=0.6)


def test_a_saved_model_comes_back(model, tmp_path):
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))
    network = found.to_torch()
    with torch.no_grad():
        scores = network(torch.from_numpy(IMAGES).float()[:5])
    np.testing.assert_allclose(scores, model.scores(IMAGES[:5]), rtol=0.05, atol=0.05)


def test_names_of_stacks_are_fitted_to_the_images():
    model = greedy(blocks="small", epochs=1, augment="none").fit(IMAGES[:32], LABELS[:32])
    assert len(model.network_.blocks) >= 2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"blocks": "large"}, "blocks 'large' is not known"),
        ({"blocks": []}, "blocks is empty"),
        ({"blocks": [Block(filter_size=20)]}, "filter_size 20"),
        ({"budget": None, "epochs": None}, "neither budget nor epochs"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        greedy(**settings).fit(IMAGES, LABELS)
