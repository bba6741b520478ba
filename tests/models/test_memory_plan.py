"""A memory budget is shared out by sizes alone, and what cannot work says what would."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn import ConvexConvClassifier
from convexcnn.data import limits
from convexcnn.data.stored_rows import StoredRows, stored_copy
from convexcnn.errors import SettingError
from convexcnn.models.frozen_maps import freeze_maps
from convexcnn.models.memory_plan import PROGRAM_GB, WORKING_GB, MemoryPlan
from small import stripe_stream, stripes
from tiny_models import TINY_BLOCKS, TINY_NEURONS, layerwise

IMAGES, LABELS = stripes(60)
TAKEN = PROGRAM_GB + WORKING_GB
LARGE = np.broadcast_to(np.uint8(0), (1000, 3, 500, 400))
"""0.6 GB by its size, in no memory at all."""


def test_images_in_memory_count_and_those_in_files_do_not():
    everything = MemoryPlan.of(4.0, stored_copy(IMAGES)).usable_gb
    assert everything == pytest.approx(4.0 - TAKEN)
    with_images = MemoryPlan.of(4.0, LARGE).usable_gb
    assert with_images == pytest.approx(everything - 1.25 * 0.6)
    with_scores = MemoryPlan.of(4.0, LARGE, 10**8).usable_gb
    assert with_scores == pytest.approx(with_images - 0.4)


@pytest.mark.parametrize(
    ("budget", "images", "message"),
    [
        (0.5, IMAGES, r"memory_gb is 0\.5, and Python, torch and these images take 0\.90; give mo"),
        (1.5, LARGE, r"memory_gb is 1\.5, .* take 1\.65"),
        (0.0, IMAGES, "memory_gb is 0.0; give a positive number"),
        (float("inf"), IMAGES, "memory_gb is inf; give a positive number"),
    ],
)
def test_what_cannot_work_says_what_would(budget, images, message):
    with pytest.raises(SettingError, match=message):
        MemoryPlan.of(budget, images)


def test_a_small_machine_is_no_error_without_a_budget(monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 10**9)
    assert MemoryPlan.of(None, IMAGES).usable_gb == pytest.approx(0.25 * 0.6)


def test_maps_and_features_share_three_fifths_and_the_solver_has_the_rest():
    plan = MemoryPlan(usable_gb=10.0)
    assert plan.keeps(4 * 10**9)
    assert not plan.keeps(3 * 10**9)
    assert plan.keeps(2 * 10**9)
    assert not plan.keeps(1)
    assert plan.solver_gb == pytest.approx(4.0)
    assert plan.least_solver_gb == pytest.approx(4.0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_maps_that_a_block_sees_count_if_they_are_in_memory(in_memory):
    stream = stripe_stream(40, mirror=True)
    maps = freeze_maps(
        stream, (1, 2, 2), lambda x: x[:, :1, :2, :2].half(), np.arange(9), in_memory=in_memory
    )
    plan = MemoryPlan(10.0).beside(maps)
    assert plan.kept == (2 * 80 * 4 if in_memory else 0)
    assert MemoryPlan(10.0).beside(stream).kept == 0


@pytest.mark.parametrize("model", [ConvexConvClassifier, layerwise])
def test_models_refuse_a_budget_without_room(model):
    with pytest.raises(SettingError, match=r"memory_gb is 0\.3, .*give more than that"):
        model(memory_gb=0.3).fit(IMAGES, LABELS)


@pytest.mark.parametrize("solver", ["direct", "kernel", "cg"])
def test_a_model_of_images_in_a_file_has_the_bits_of_one_in_memory(solver):
    settings = {"n_gates": 4, "gates": "patches", "solver": solver, "whiten": 8}
    one = ConvexConvClassifier(**settings).fit(IMAGES, LABELS)
    other = ConvexConvClassifier(**settings).fit(stored_copy(IMAGES), LABELS)
    np.testing.assert_array_equal(one.coef_, other.coef_)
    np.testing.assert_array_equal(one.scores(IMAGES), other.scores(stored_copy(IMAGES)))


@pytest.mark.parametrize(("blocks", "asked"), [(TINY_BLOCKS, 2), (TINY_NEURONS, 3)])
def test_a_stack_of_maps_in_files_has_the_bits_of_one_in_memory(blocks, asked, monkeypatch):
    """Asked for room are the maps of every block but the last, and the features of neurons."""
    one = layerwise(blocks=blocks).fit(IMAGES, LABELS)
    kept = []
    monkeypatch.setattr(MemoryPlan, "keeps", lambda self, size: bool(kept.append(size)))
    made = []
    start = StoredRows.__init__

    def counted(self, *arguments):
        made.append(arguments[0])
        start(self, *arguments)

    monkeypatch.setattr(StoredRows, "__init__", counted)
    other = layerwise(blocks=blocks).fit(stored_copy(IMAGES), LABELS)
    assert len(kept) == asked
    assert len(made) > asked
    np.testing.assert_array_equal(one.scores(IMAGES), other.scores(IMAGES))
    assert one.certificates_ == other.certificates_


def test_a_container_has_the_memory_that_it_may_use(monkeypatch, tmp_path):
    whole = limits.machine_memory()
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(limits, "GROUP_LIMITS", (str(tmp_path / "memory.max"),))
    assert limits.machine_memory() >= whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert limits.machine_memory() == 10**6
