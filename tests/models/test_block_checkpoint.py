"""A training that is interrupted goes on after its finished blocks, to the same bits."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from convexcnn.errors import RunError
from convexcnn.models import time_plan as module
from convexcnn.models.block_checkpoint import DamagedCheckpoint
from small import stripes
from tiny_models import TINY_NEURONS, layerwise

IMAGES, LABELS = stripes(60)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """However long a budget is: these tests are about what is kept, not about what is learned."""
    monkeypatch.setattr(module, "MOST_STEPS", 20)
    monkeypatch.setattr(module, "MOST_EPOCHS", 20)


def interrupt_in(block: int, folder, **settings) -> None:
    """Train until a block begins."""

    def interrupt(event):
        if event["block"] == block:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layerwise(checkpoint=folder, callback=interrupt, **settings).fit(IMAGES, LABELS)


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("augment", ["flip", "none"])
def test_it_goes_on_to_the_same_bits(block, augment, tmp_path):
    whole = layerwise(augment=augment).fit(IMAGES, LABELS)
    interrupt_in(block, tmp_path, augment=augment)
    assert len(list(tmp_path.glob("*.json"))) == block - 1
    events = []
    model = layerwise(checkpoint=tmp_path, augment=augment, callback=events.append)
    model.fit(IMAGES, LABELS)
    trained = {event["block"] for event in events if event["phase"].endswith(": gates")}
    assert trained == set(range(block, 4))
    np.testing.assert_array_equal(model.scores(IMAGES), whole.scores(IMAGES))
    assert model.certificates_ == whole.certificates_
    for one, two in zip(model.blocks_, whole.blocks_, strict=True):
        assert one.measures == two.measures
        assert one.path == two.path
        assert one.solver == two.solver
        assert set(one.seconds) == set(two.seconds)
    assert model.certify(IMAGES, LABELS) == whole.certificates_


def test_an_interruption_before_the_first_block_leaves_nothing(tmp_path):
    interrupt_in(1, tmp_path / "blocks")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "images"),
    [({"random_state": 1}, IMAGES), ({"n_gates": 2}, IMAGES), ({}, 255 - IMAGES)],
    ids=["seed", "gates", "images"],
)
def test_blocks_of_another_training_are_refused(settings, images, tmp_path):
    interrupt_in(2, tmp_path)
    with pytest.raises(RunError, match=r"with other images or settings; empty .* to train anew"):
        layerwise(checkpoint=tmp_path, **settings).fit(images, LABELS)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "no JSON": ("json", lambda path: path.write_text("{")),
    "other JSON": ("json", lambda path: path.write_text("[]")),
    "no checksum": ("json", lambda path: path.write_text(json.dumps({"fingerprint": None}))),
    "JSON cut off": ("json", cut),
    "an empty file": ("json", lambda path: path.write_bytes(b"")),
    "a number in JSON": ("json", change_a_byte),
    "no tensors": ("safetensors", lambda path: path.unlink()),
    "tensors cut off": ("safetensors", cut),
    "a byte of a tensor": ("safetensors", change_a_byte),
}


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_block_is_named_and_training_goes_on_from_the_one_before(damage, tmp_path):
    """Block 1 is kept, block 2 is damaged, and block 3, which saw block 2, goes with it."""
    ending, spoil = DAMAGES[damage]
    whole = layerwise(checkpoint=tmp_path).fit(IMAGES, LABELS)
    spoil(tmp_path / f"block2.{ending}")
    events = []
    model = layerwise(checkpoint=tmp_path, callback=events.append)
    with pytest.warns(DamagedCheckpoint, match=r"block 2 that was kept in .* is damaged"):
        model.fit(IMAGES, LABELS)
    trained = {event["block"] for event in events if event["phase"].endswith(": gates")}
    assert trained == {2, 3}
    np.testing.assert_array_equal(model.scores(IMAGES), whole.scores(IMAGES))


@pytest.mark.filterwarnings("ignore::convexcnn.models.block_checkpoint.DamagedCheckpoint")
def test_a_folder_in_place_of_a_block_is_named_and_others_beside_it_stay(tmp_path):
    interrupt_in(2, tmp_path)
    (tmp_path / "block1.json").unlink()
    (tmp_path / "block1.json").mkdir()
    (tmp_path / "block1.json kept aside").mkdir()
    with pytest.raises(RunError, match=r"block1\.json is damaged and cannot be removed .*yourself"):
        layerwise(checkpoint=tmp_path).fit(IMAGES, LABELS)
    (tmp_path / "block1.json").rmdir()
    layerwise(checkpoint=tmp_path).fit(IMAGES, LABELS)
    assert (tmp_path / "block1.json kept aside").is_dir()


def test_a_disk_that_fills_up_while_a_block_is_kept_leaves_no_half_block(monkeypatch, tmp_path):
    interrupt_in(2, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"cannot be written .No space left on device"):
            layerwise(checkpoint=tmp_path).fit(IMAGES, LABELS)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="a finished block cannot be written"):
        layerwise(checkpoint=tmp_path / "file" / "blocks").fit(IMAGES, LABELS)


def test_a_budget_ends_the_stack_after_a_block(monkeypatch, tmp_path):
    """And what was kept can be continued with more time."""
    minutes = iter([0.0, 3 * 60.0, 6 * 60.0, 9 * 60.0])
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "perf_counter", lambda: next(minutes, 600.0))
        found = layerwise(budget=1e-9, checkpoint=tmp_path).fit(IMAGES, LABELS)
    assert len(found.blocks_) == len(found.head_weights_) == 1
    assert len(found.blocks_[0].neurons) == 0
    assert found.score(IMAGES, LABELS) > 0.7
    whole = layerwise().fit(IMAGES, LABELS)
    longer = layerwise(budget=1000.0, checkpoint=tmp_path).fit(IMAGES, LABELS)
    assert len(longer.blocks_) == 3
    np.testing.assert_array_equal(longer.scores(IMAGES), whole.scores(IMAGES))


BY_BUDGET = tuple(replace(block, epochs=None) for block in TINY_NEURONS)


@pytest.mark.parametrize(
    "blocks",
    [(*BY_BUDGET, BY_BUDGET[-1]), TINY_NEURONS],
    ids=["by the budget", "by their settings"],
)
def test_a_block_that_was_begun_is_finished_though_its_time_is_over(blocks, monkeypatch, tmp_path):
    """However its training is timed."""
    settings = {"blocks": blocks, "budget": 60.0, "checkpoint": tmp_path}

    def interrupt(event):
        if event["phase"] == "block 2: network that lends neurons":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layerwise(**settings, callback=interrupt).fit(IMAGES, LABELS)
    monkeypatch.setattr(module.TimePlan, "leaves_no_time_for", lambda plan, number: True)
    assert len(layerwise(**settings).fit(IMAGES, LABELS).blocks_) == 2


def test_certificates_that_an_interrupted_training_left_out_are_made_up_for(tmp_path):
    whole = layerwise().fit(IMAGES, LABELS)
    interrupt_in(3, tmp_path, certificates=False)
    assert layerwise(checkpoint=tmp_path).fit(IMAGES, LABELS).certificates_ == whole.certificates_
    without = layerwise(checkpoint=tmp_path, certificates=False).fit(IMAGES, LABELS)
    assert without.certificates_ == []


def test_a_damaged_plan_costs_no_block(tmp_path):
    settings = {"blocks": BY_BUDGET, "budget": 60.0, "checkpoint": tmp_path}
    layerwise(**settings).fit(IMAGES, LABELS)
    (tmp_path / "block2.plan.json").write_text("{")
    layerwise(**settings).fit(IMAGES, LABELS)  # nobody asks for it
    for kind in ("json", "safetensors"):
        (tmp_path / f"block2.{kind}").unlink()
    events = []
    with pytest.warns(DamagedCheckpoint, match=r"block2\.plan\.json is damaged .* decided anew"):
        layerwise(**settings, callback=events.append).fit(IMAGES, LABELS)
    assert {e["block"] for e in events if e["phase"].endswith(": gates")} == {2}
