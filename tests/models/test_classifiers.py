"""What both classifiers promise: layouts, labels, probabilities, and all or nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError
from convexcnn.solvers.sgd import SGD
from small import stripes
from tiny_models import convex, non_convex

IMAGES, LABELS = stripes(60)
COLOUR = stripes(45, channels=3)[0]

LAYOUTS = {
    "channels first": (COLOUR, None),
    "channels last": (COLOUR.transpose(0, 2, 3, 1), None),
    "flattened": (COLOUR.reshape(45, -1), (3, 8, 8)),
    "flattened, channels last": (COLOUR.transpose(0, 2, 3, 1).reshape(45, -1), (8, 8, 3)),
    "float": (COLOUR.astype(np.float64), None),
    "torch": (torch.from_numpy(COLOUR), None),
}


def same(first, second) -> bool:
    """Whether two trained classifiers agree to the last bit."""
    return all(torch.equal(getattr(first, t), getattr(second, t)) for t in first.tensors)


@pytest.mark.parametrize(("X", "image_shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_trains_the_same_model(make, X, image_shape):
    expected = make().fit(COLOUR, LABELS[:45])
    found = make(image_shape=image_shape).fit(X, LABELS[:45])
    assert found.image_shape_ == (3, 8, 8)
    assert found.n_features_in_ == 192
    for name in found.tensors:
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )
    np.testing.assert_allclose(found.scores(X), expected.scores(COLOUR), atol=1e-3)


@pytest.mark.parametrize("X", [IMAGES[:, 0], IMAGES.reshape(60, -1)], ids=["grey", "flattened"])
def test_a_trained_model_takes_other_layouts_of_its_images(model, X):
    np.testing.assert_array_equal(model.predict(X), model.predict(IMAGES))


@pytest.mark.parametrize(
    "names",
    [("ash", "beech", "cedar"), (7, -2, 30), (0.0, 1.0, 5.0)],
    ids=["strings", "integers", "floats"],
)
def test_labels_may_be_anything_with_an_order(make, names):
    y = np.array(names)[LABELS]
    model = make().fit(IMAGES, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    predicted = model.predict(IMAGES)
    assert predicted.dtype == y.dtype
    assert model.score(IMAGES, y) == (predicted == y).mean() > 0.8


def test_three_classes_have_a_score_and_a_probability_each(model):
    scores, probabilities = model.decision_function(IMAGES), model.predict_proba(IMAGES)
    assert scores.shape == probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities >= 0).all()
    np.testing.assert_array_equal(scores.argmax(1), model.predict(IMAGES))
    np.testing.assert_array_equal(probabilities.argmax(1), model.predict(IMAGES))
    np.testing.assert_array_equal(scores, model.scores(IMAGES))


def test_two_classes_have_one_score_the_second_minus_the_first(make):
    X, y = IMAGES[LABELS < 2], LABELS[LABELS < 2].astype(bool)
    model = make().fit(X, y)
    decision = model.decision_function(X)
    assert decision.shape == (40,)
    np.testing.assert_array_equal(decision, model.scores(X)[:, 1] - model.scores(X)[:, 0])
    np.testing.assert_array_equal(model.predict(X), decision > 0)
    assert model.predict_proba(X).shape == (40, 2)


def test_probabilities_fit_held_out_images_better_than_bare_scores(model):
    """The temperature was fitted: probabilities are sharper than softmax of squared-loss scores."""
    assert model.temperature_ > 0
    correct = np.searchsorted(model.classes_, LABELS)
    fitted = model.predict_proba(IMAGES)[np.arange(60), correct]
    scores = model.scores(IMAGES)
    bare = np.exp(scores)[np.arange(60), correct] / np.exp(scores).sum(1)
    assert np.log(fitted).mean() > np.log(bare).mean()


def test_scores_do_not_depend_on_the_company_an_image_is_in(model):
    together = model.scores(IMAGES)
    alone = np.concatenate([model.scores(IMAGES[i : i + 1]) for i in range(0, 60, 7)])
    np.testing.assert_allclose(alone, together[::7], rtol=1e-4, atol=1e-5)


def test_no_images_have_no_scores(model):
    assert model.scores(IMAGES[:0]).shape == model.predict_proba(IMAGES[:0]).shape == (0, 3)
    assert model.predict(IMAGES[:0]).shape == (0,)


def test_flat_and_black_images_have_scores_too(model):
    flat = np.stack([np.full((1, 8, 8), level, np.uint8) for level in (0, 100, 255)])
    together = model.scores(flat)
    assert np.isfinite(together).all()
    alone = np.concatenate([model.scores(flat[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bits(make):
    assert same(make(random_state=3).fit(IMAGES, LABELS), make(random_state=3).fit(IMAGES, LABELS))
    assert not same(
        make(random_state=3).fit(IMAGES, LABELS), make(random_state=4).fit(IMAGES, LABELS)
    )


def test_training_again_starts_afresh(make):
    model = make().fit(COLOUR, LABELS[:45])
    assert same(model.fit(IMAGES, LABELS), make().fit(IMAGES, LABELS))
    assert model.image_shape_ == (1, 8, 8)


def test_inputs_and_parameters_are_left_alone(make):
    X, y, model = IMAGES.copy(), LABELS.copy(), make()
    before = dict(vars(model))
    model.fit(X, y).predict(X)
    np.testing.assert_array_equal(X, IMAGES)
    np.testing.assert_array_equal(y, LABELS)
    assert {name: vars(model)[name] for name in before} == before


WITH_NAN = np.where(IMAGES > 250, np.nan, IMAGES)


@pytest.mark.parametrize(
    ("X", "y", "complaint"),
    [
        (IMAGES, LABELS[:-1], r"y has shape \(59,\); give one label for each of the 60"),
        (IMAGES, np.eye(3)[LABELS], r"y has shape \(60, 3\)"),
        (IMAGES, np.zeros(60), "y has 1 class; a classifier needs at least two"),
        (IMAGES, LABELS + 0.5, "continuous values; give one class per image"),
        (IMAGES, np.where(LABELS, LABELS, np.nan), "continuous values"),
        (WITH_NAN, LABELS, "NaN or infinite"),
        (IMAGES.reshape(60, -1), LABELS, r"say image_shape=\(channels, height, width\)"),
        (IMAGES[:0], LABELS[:0], "0 sample"),
    ],
)
def test_a_failed_fit_leaves_no_attributes(make, X, y, complaint):
    model = make()
    before = dict(vars(model))
    with pytest.raises(DataError, match=complaint):
        model.fit(X, y)
    assert vars(model) == before


def test_an_interrupted_fit_leaves_no_attributes(make):
    def interrupt(event):
        raise KeyboardInterrupt

    model = make(callback=interrupt)
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        model.fit(IMAGES, LABELS)
    assert vars(model) == before


def test_a_failed_second_fit_keeps_the_first(make):
    model = make().fit(IMAGES, LABELS)
    before = model.scores(IMAGES)
    with pytest.raises(DataError):
        model.fit(COLOUR, LABELS)
    np.testing.assert_array_equal(model.scores(IMAGES), before)


@pytest.mark.parametrize(
    ("X", "complaint"),
    [
        (COLOUR, r"X has images of shape \(3, 8, 8\); the model was trained on \(1, 8, 8\)"),
        (IMAGES[:, :, :6], r"X has images of shape \(1, 6, 8\)"),
        (IMAGES.reshape(60, -1)[:, :60], "X has 60 features, but .* is expecting 64 features"),
        (np.where(IMAGES > 250, np.nan, IMAGES), "NaN"),
        (np.array([["a"]]), "strings"),
    ],
)
def test_images_of_another_kind_are_refused(model, X, complaint):
    with pytest.raises(DataError, match=complaint):
        model.predict(X)


@pytest.mark.parametrize(
    ("make_events", "phases"),
    [
        (
            convex,
            ["gates", "statistics", "factorisation", "path", "validation", "refit", "refinement"],
        ),
        (
            lambda **kwargs: convex(solver="kernel", **kwargs),
            ["gates", "kernel", "factorisation", "path", "refit", "refinement"],
        ),
        (
            lambda **kwargs: convex(solver=SGD(1, 30, log_every=1), **kwargs),
            ["gates", "sgd", "sgd"],
        ),
        (non_convex, ["sgd"] * 5),
    ],
)
def test_events_are_json_with_phase_step_and_seconds(make_events, phases):
    events = []
    make_events(callback=events.append, validation_fraction=0.2).fit(IMAGES, LABELS)
    assert [event["phase"] for event in events] == phases
    for event in json.loads(json.dumps(events)):
        assert event["step"] >= 1
        assert event["seconds"] >= 0
        assert event["steps"] is None or event["steps"] >= event["step"]


def test_training_on_mirror_images_makes_scores_more_symmetric(make):
    def difference(augment):
        model = make(augment=augment).fit(IMAGES, LABELS)
        return np.abs(model.scores(IMAGES) - model.scores(IMAGES[..., ::-1])).mean()

    assert difference("flip") < difference("none")
