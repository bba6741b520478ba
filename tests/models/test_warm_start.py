"""Blocks are added to a trained stack: what is trained stays, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from convexcnn.errors import DataError, RunError, SettingError
from convexcnn.models import load_model, save_model
from convexcnn.models import time_plan as plans
from convexcnn.models.warm_start import NothingAdded
from small import stripes
from tiny_models import TINY_BLOCKS, TINY_NEURONS, layerwise

IMAGES, LABELS = stripes(60)
FURTHER = replace(TINY_NEURONS[1], n_gates=4, downsample="none")
STACKS = {"patches": TINY_BLOCKS, "neurons": (*TINY_NEURONS, FURTHER)}


@pytest.fixture(scope="module", params=STACKS)
def blocks(request):
    """Settings of three blocks of either kind."""
    return STACKS[request.param]


@pytest.fixture(scope="module")
def whole(blocks):
    """All three trained at once; not to be changed."""
    return layerwise(blocks=blocks).fit(IMAGES, LABELS)


@pytest.fixture(scope="module")
def two(blocks):
    """The first two; not to be changed."""
    return layerwise(blocks=blocks[:2]).fit(IMAGES, LABELS)


def copied(model):
    """A stack with the same attributes, learned ones included."""
    copy = clone(model)
    copy.__dict__.update(vars(model))
    return copy


def same_tensors(one, other, names=None):
    found, expected = one.saved()[0], other.saved()[0]
    return all(torch.equal(found[name], expected[name]) for name in names or expected)


def test_further_blocks_are_those_of_a_training_of_all_at_once(blocks, whole, two):
    events, model = [], copied(two)
    model.set_params(warm_start=True, blocks=blocks, callback=events.append)
    model.fit(IMAGES, LABELS)
    assert {e["block"] for e in events if e["phase"].endswith(": gates")} == {3}
    assert [block.kept for block in model.blocks_] == [True, True, False]
    for block, before in zip(model.blocks_, two.blocks_, strict=False):
        assert same_tensors(block, before, ("weights", "bias", *type(block).before_head[:1]))
        assert (block.measures, block.path) == (before.measures, before.path)
        assert set(block.seconds) == {"maps"}
    for block, expected in zip(model.blocks_, whole.blocks_, strict=True):
        assert same_tensors(block, expected)
        assert (block.scaler, block.measures) == (expected.scaler, expected.measures)
    np.testing.assert_array_equal(model.predict_proba(IMAGES), whole.predict_proba(IMAGES))
    assert model.certificates_ == whole.certificates_
    assert model.training_scores_.shape == (3, 60, 3)


def test_a_seed_that_was_drawn_is_that_of_further_blocks():
    model = layerwise(blocks=TINY_BLOCKS[:1], random_state=None).fit(IMAGES, LABELS)
    seed = model.trained_on_.random_state
    model.set_params(warm_start=True, blocks=TINY_BLOCKS[:2]).fit(IMAGES, LABELS)
    assert model.trained_on_.random_state == seed
    assert len(model.blocks_) == 2


def test_a_stack_from_files_goes_on_and_is_certified_again(blocks, whole, two, tmp_path):
    save_model(two, tmp_path)
    model = load_model(tmp_path).set_params(warm_start=True, blocks=blocks)
    model.fit(IMAGES, LABELS)
    for block, expected in zip(model.blocks_, whole.blocks_, strict=True):
        assert same_tensors(block, expected)
    np.testing.assert_allclose(model.scores(IMAGES), whole.scores(IMAGES), atol=1e-4)
    assert len(model.certificates_) == 3
    assert set(model.blocks_[0].seconds) == {"scores", "certificate", "maps"}
    again = model.certify(IMAGES, LABELS)
    for one, other in zip(model.certificates_, again, strict=True):
        assert one.primal == pytest.approx(other.primal, rel=1e-6)


def test_a_longer_list_goes_on_after_the_checkpoint_of_a_shorter_one(blocks, whole, tmp_path):
    layerwise(blocks=blocks[:2], checkpoint=tmp_path).fit(IMAGES, LABELS)
    events = []
    model = layerwise(blocks=blocks, checkpoint=tmp_path, callback=events.append)
    model.fit(IMAGES, LABELS)
    assert {e["block"] for e in events if e["phase"].endswith(": gates")} == {3}
    np.testing.assert_array_equal(model.scores(IMAGES), whole.scores(IMAGES))
    other = [*blocks[:2], replace(blocks[2], n_gates=5)]
    with pytest.raises(RunError, match=r"block3.json is of a training with other images or sett"):
        layerwise(blocks=other, checkpoint=tmp_path).fit(IMAGES, LABELS)


OTHER_BLOCKS = [TINY_BLOCKS[0], replace(TINY_BLOCKS[1], n_gates=5), TINY_BLOCKS[2]]
REFUSED = [
    ({"blocks": OTHER_BLOCKS}, IMAGES, LABELS, "block 2: n_gates is 5, and 4 in the trained block"),
    ({"blocks": TINY_BLOCKS[:1]}, IMAGES, LABELS, "blocks names 1, and 2 are trained; begin with"),
    ({"n_gates": 3}, IMAGES, LABELS, "block 1: n_gates is 3, and 4 in the trained block"),
    ({"random_state": 1}, IMAGES, LABELS, "random_state is 1, and the trained blocks had 0; give"),
    ({"augment": "none"}, IMAGES, LABELS, "augment is 'none', and the trained blocks had 'flip'"),
    ({"centre": False}, IMAGES, LABELS, "centre is False, and the trained blocks had True"),
    ({"validation_fraction": 0.2}, IMAGES, LABELS, r"validation_fraction is 0\.2, and the trained"),
    ({}, 255 - IMAGES, LABELS, "X and y are not what the trained blocks saw; give the same"),
    ({}, IMAGES, np.roll(LABELS, 1), "X and y are not what the trained blocks saw; give the same"),
    ({}, IMAGES, LABELS + 1, "or other classes, than the trained blocks saw"),
    ({}, IMAGES[..., :6], LABELS, "X and y have images of another shape, or other classes"),
]


@pytest.fixture(scope="module")
def on_patches():
    """Two blocks on patches; not to be changed."""
    return layerwise(blocks=TINY_BLOCKS[:2]).fit(IMAGES, LABELS)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[3])
def test_another_training_is_refused_and_the_stack_stays(case, on_patches):
    settings, images, labels, complaint = case
    model = copied(on_patches)
    model.set_params(**{"warm_start": True, "blocks": TINY_BLOCKS, **settings})
    before = dict(vars(model))
    with pytest.raises((SettingError, DataError), match=complaint) as caught:
        model.fit(images, labels)
    assert "without warm_start" in str(caught.value)
    assert vars(model) == before


def test_a_file_that_does_not_say_what_a_stack_saw_is_refused(on_patches, tmp_path):
    save_model(on_patches, tmp_path)
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    description["stack"]["trained_on"]["centre"] = "no"
    path.write_text(json.dumps(description))
    with pytest.raises(RunError, match="trained_on is"):
        load_model(tmp_path)
    del description["stack"]["trained_on"]
    path.write_text(json.dumps(description))
    model = load_model(tmp_path).set_params(warm_start=True, blocks=TINY_BLOCKS)
    with pytest.raises(SettingError, match="which images the trained blocks saw, and their file"):
        model.fit(IMAGES, LABELS)


def test_with_nothing_to_add_the_stack_stays(on_patches, monkeypatch, tmp_path):
    save_model(on_patches, tmp_path)
    model = load_model(tmp_path).set_params(warm_start=True, certificates=False)
    before = model.predict_proba(IMAGES)
    with pytest.warns(NothingAdded, match="blocks names no more than the 2 that are trained"):
        model.fit(IMAGES, LABELS)
    np.testing.assert_array_equal(model.predict_proba(IMAGES), before)
    monkeypatch.setattr(plans.TimePlan, "leaves_no_time_for", lambda plan, number: True)
    model.set_params(blocks=TINY_BLOCKS)
    with pytest.warns(NothingAdded, match="budget is too short for a further block"):
        model.fit(IMAGES, LABELS)
    np.testing.assert_array_equal(model.predict_proba(IMAGES), before)


def test_blocks_that_a_budget_left_out_are_trained_later(monkeypatch):
    settings = {"blocks": "vgg11", "n_gates": 3, "gates": "patches", "certificates": False}
    model = layerwise(**settings, warm_start=True)
    with monkeypatch.context() as patch:
        patch.setattr(plans.TimePlan, "leaves_no_time_for", lambda plan, number: number > 2)
        assert len(model.fit(IMAGES, LABELS).blocks_) == 2
    monkeypatch.setattr(plans.TimePlan, "leaves_no_time_for", lambda plan, number: number > 4)
    assert len(model.fit(IMAGES, LABELS).blocks_) == 4
    assert [block.kept for block in model.blocks_] == [True, True, False, False]


def test_a_checkpoint_on_other_blocks_is_refused(on_patches, tmp_path):
    """Its settings are the same, but what its third block saw is not."""
    changed = copied(on_patches)
    first = on_patches.blocks_[0]
    changed.blocks_ = [replace(first, bias=first.bias + 1), *on_patches.blocks_[1:]]
    for model, refused in ((copied(on_patches), False), (changed, True)):
        model.set_params(warm_start=True, blocks=TINY_BLOCKS, checkpoint=tmp_path)
        if refused:
            with pytest.raises(RunError, match=r"block3\.json is of a training with other images"):
                model.fit(IMAGES, LABELS)
        else:
            model.fit(IMAGES, LABELS)
