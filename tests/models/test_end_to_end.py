"""Baselines learn, end when they should, and do not depend on what is measured meanwhile."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from convexcnn.data.split import train_validation_split
from convexcnn.errors import SettingError
from convexcnn.models import EndToEndCNN, load_model, save_model
from convexcnn.models import networks as networks_module
from convexcnn.models.back_propagation import Recipe, _batches, descend, stream_scores
from convexcnn.models.probabilities import fit_temperature
from small import generator, stripe_stream, stripes

IMAGES, LABELS = stripes(90)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """VGG-11 with few channels: everything else is as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks_module, "VGG11_WIDTHS", ((8,), (8,), (8, 8)))
        yield


def end_to_end(**kwargs: Any) -> EndToEndCNN:
    settings = {"budget": None, "epochs": 12, "batch_size": 16, "augment": "crop"}
    return EndToEndCNN(**{**settings, "learning_rate": 0.1, **kwargs})


@pytest.fixture(scope="module")
def model(narrow):
    """A trained network; not to be changed."""
    return end_to_end().fit(IMAGES, np.array(["a", "b", "c"])[LABELS])


def test_it_learns(model):
    new_images, new_labels = stripes(60, seed=1)
    assert (model.predict(new_images) == np.array(["a", "b", "c"])[new_labels]).mean() > 0.85
    assert model.predict_proba(new_images).shape == (60, 3)
    assert model.validation_accuracy_ > 0.5
    assert 11.5 < model.n_epochs_ <= 12
    assert model.n_train_ == 81
    assert model.n_parameters() == sum(p.numel() for p in model.network_.parameters())


def test_the_curve_is_logged_to_the_callback(model):
    events: list[dict[str, Any]] = []
    again = end_to_end(callback=events.append).fit(IMAGES, LABELS)
    assert events == again.curve_
    assert 10 <= len(events) <= 22
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(events))
    assert all({"train_loss", "train_accuracy", "validation_accuracy"} <= set(e) for e in events)
    np.testing.assert_array_equal(again.scores(IMAGES), model.scores(IMAGES))  # the same seed


def test_the_random_state_outside_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    end_to_end(epochs=1).fit(IMAGES, LABELS)
    assert torch.equal(torch.rand(3), expected)


def test_alexnet_trains_on_all_images_if_none_are_held_out():
    model = end_to_end(network="alexnet", epochs=1, validation_fraction=0, augment="flip+crop")
    model.fit(IMAGES[:32], LABELS[:32])
    assert model.validation_accuracy_ is None
    assert model.temperature_ == 1
    assert "validation_accuracy" not in model.curve_[0]
    assert model.n_train_ == 32


def test_it_ends_with_its_budget():
    before = time.perf_counter()
    model = end_to_end(budget=1 / 60, epochs=None).fit(IMAGES, LABELS)
    assert 0.5 < model.curve_[-1]["seconds"] < 1.3
    assert time.perf_counter() - before < 3
    assert model.n_epochs_ > 1


def test_the_rate_rises_and_falls_to_zero_within_time_or_epochs():
    recipe = Recipe(2.0, 10, False, False, 16, 0.1)
    assert recipe.progress(60, 1) == 0.5
    assert recipe.progress(60, 8) == 0.8
    assert recipe.rate(0.15) == pytest.approx(0.1)
    assert recipe.rate(0.075) == pytest.approx(0.05)
    assert recipe.rate(0.0) == recipe.rate(1.0) == recipe.rate(1.1) == 0
    assert recipe.rate(0.575) == pytest.approx(0.05)


def test_held_out_images_only_measure():
    stream = stripe_stream(40)
    recipe = Recipe(None, 2, True, True, 16, 0.05)
    found = []
    for held_out in (stripe_stream(9, seed=2), stripe_stream(9, seed=3)):
        torch.manual_seed(0)
        network = networks_module.build_network("vgg11", (1, 8, 8), 3)
        with torch.no_grad():
            descend(network, stream, held_out, recipe, generator=generator())
        found.append(stream_scores(network.eval(), stream, mirror=False))
    assert torch.equal(*found)


def test_batches_hold_every_image_once_flipped_and_shifted():
    stream = stripe_stream(40)
    plain = Recipe(None, 1, False, False, 8, 0.1)
    batches = _batches(stream, 8, plain, generator())
    seen = torch.cat([next(batches)[0] for _ in range(5)])
    all_images, _ = stream.block(slice(None))
    assert torch.equal(seen.flatten(1).sum(1).sort().values, all_images.flatten(1).sum(1).sort()[0])
    flip = Recipe(None, 1, True, False, 40, 0.1)
    images, _ = next(_batches(stream, 40, flip, generator()))
    order = torch.randperm(40, generator=generator())
    unmoved = (images == all_images[order]).flatten(1).all(1)
    mirrored = (images.flip(3) == all_images[order]).flatten(1).all(1)
    assert (unmoved | mirrored).all()
    assert 5 < mirrored.sum() < 35


def test_shifts_are_of_at_most_an_eighth_and_bring_in_zeros():
    stream = stripe_stream(40, size=16)
    images, labels = next(_batches(stream, 40, Recipe(None, 1, False, True, 40, 0.1), generator()))
    order = torch.randperm(40, generator=generator())
    all_images, _ = stream.block(slice(None))
    padded = torch.nn.functional.pad(all_images[order], (2, 2, 2, 2))
    offsets = set()
    for image, whole in zip(images, padded, strict=True):
        found = [
            (r, c)
            for r in range(5)
            for c in range(5)
            if torch.equal(whole[:, r : r + 16, c : c + 16], image)
        ]
        assert len(found) == 1
        offsets |= set(found)
    assert len(offsets) > 10
    assert torch.equal(labels, torch.from_numpy(stream.labels)[order])


def test_a_saved_model_comes_back(model, tmp_path):
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))
    np.testing.assert_array_equal(found.predict_proba(IMAGES), model.predict_proba(IMAGES))
    assert found.get_params() == {**model.get_params(), "callback": None}


def test_a_clone_is_not_trained(model):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError, match="is not trained"):
        copy.predict(IMAGES)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"network": "lenet"}, "network 'lenet' is not known"),
        ({"budget": 0}, "budget is 0; give a positive number"),
        ({"epochs": -1}, "epochs is -1"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1}, "batch_size is 1; give 2 or more"),
        ({"budget": None, "epochs": None}, "neither budget nor epochs"),
        ({"augment": "rotate"}, "augment 'rotate' is not known; choose one of none, flip, crop"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5"),
        ({"learning_rate": 1e30}, "the loss diverged at step"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        end_to_end(**settings).fit(IMAGES, LABELS)


@pytest.mark.parametrize("settings", [{"budget": float("nan")}, {"validation_fraction": -0.5}])
def test_settings_are_refused_without_images(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        end_to_end(**settings).check_parameters()


def test_what_is_measured_is_what_is_predicted():
    """Mirror images are averaged in where they trained, by the temperature's images, too."""
    model = end_to_end(augment="flip", epochs=3).fit(IMAGES, LABELS)
    _, rows = train_validation_split(LABELS, model.validation_fraction, 0)
    images, labels = IMAGES[rows], LABELS[rows]
    assert model.validation_accuracy_ == model.score(images, labels)
    assert model.temperature_ == pytest.approx(fit_temperature(model.scores(images), labels))
