"""Weight 2 is the image twice, weight 0 is no image; what cannot weigh says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.models import load_model, save_model
from convexcnn.models.image_weights import image_weights
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import fit_whitening
from convexcnn.solvers.fista import Fista
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(60)
COUNTS = np.random.default_rng(3).integers(0, 4, 60)
TWICE = np.repeat(np.arange(60), COUNTS)
FIXED = {"gates": "gaussian", "betas": 0.01, "whiten": None}
SOLVERS = ["direct", "kernel", "cg"]


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_is_a_number_of_copies(solver, augment):
    settings = {**FIXED, "solver": solver, "augment": augment, "tolerance": 1e-9}
    weighted = convex(**settings).fit(IMAGES, LABELS, sample_weight=COUNTS)
    copied = convex(**settings).fit(IMAGES[TWICE], LABELS[TWICE])
    np.testing.assert_allclose(weighted.scaler_.mean, copied.scaler_.mean)
    np.testing.assert_allclose(weighted.scaler_.scale, copied.scaler_.scale)
    np.testing.assert_allclose(weighted.coef_, copied.coef_, atol=2e-5)
    np.testing.assert_allclose(weighted.intercept_, copied.intercept_, atol=2e-5)
    np.testing.assert_allclose(weighted.scores(IMAGES), copied.scores(IMAGES), atol=2e-5)


def test_whitening_counts_copies_too():
    images = torch.from_numpy(IMAGES).float()
    geometry = PatchGeometry((1, 8, 8), 3)
    weighted = fit_whitening(images, geometry, 5, weights=torch.from_numpy(COUNTS))
    copied = fit_whitening(images[TWICE], geometry, 5)
    torch.testing.assert_close(weighted.mean, copied.mean, rtol=1e-5, atol=1e-3)
    square = [t.projection @ t.projection.T for t in (weighted, copied)]
    torch.testing.assert_close(*square, rtol=1e-3, atol=1e-8)


def test_the_certificate_of_weighted_images_is_that_of_copies():
    weighted = convex(**FIXED).fit(IMAGES, LABELS, sample_weight=COUNTS)
    copied = convex(**FIXED).fit(IMAGES[TWICE], LABELS[TWICE])
    one = weighted.certify(IMAGES, LABELS, sample_weight=COUNTS)
    two = copied.certify(IMAGES[TWICE], LABELS[TWICE])
    assert one.primal == pytest.approx(two.primal, rel=1e-5)
    assert one.dual == pytest.approx(two.dual, rel=1e-5)
    assert 0 <= one.relative_gap < 1e-6
    slopes = [
        weighted.further_neuron(IMAGES, LABELS, sample_weight=COUNTS).slope,
        copied.further_neuron(IMAGES[TWICE], LABELS[TWICE]).slope,
    ]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.2)


def test_a_certificate_needs_the_weights_of_training():
    weighted = convex(**FIXED).fit(IMAGES, LABELS, sample_weight=COUNTS)
    with pytest.raises(DataError, match="was trained with sample_weight"):
        weighted.certify(IMAGES, LABELS)
    with pytest.raises(DataError, match="was trained without sample_weight"):
        convex(**FIXED).fit(IMAGES, LABELS).certify(IMAGES, LABELS, sample_weight=COUNTS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_choose_beta_too(solver):
    """Images of weight zero are absent from what is held out, and constant weights are none."""
    settings = {"gates": "gaussian", "solver": solver}
    ones = convex(**settings).fit(IMAGES, LABELS, sample_weight=np.full(60, 7.0))
    plain = convex(**settings).fit(IMAGES, LABELS)
    assert ones.beta_ == pytest.approx(plain.beta_, rel=1e-4)
    for one, two in zip(ones.path_, plain.path_, strict=True):
        assert one["validation"]["accuracy"] == pytest.approx(two["validation"]["accuracy"])
        assert one["validation"]["loss"] == pytest.approx(two["validation"]["loss"], rel=1e-3)
    masked = convex(**settings).fit(IMAGES, LABELS, sample_weight=np.arange(60) < 45)
    cut = convex(**settings).fit(IMAGES[:45], LABELS[:45])
    np.testing.assert_allclose(masked.scores(IMAGES), cut.scores(IMAGES), atol=1e-3)


@pytest.mark.parametrize("weight", ["balanced", {0: 2.0, 1: 1.0, 2: 0.5}])
def test_class_weights_are_sample_weights(weight, tmp_path):
    kept = np.flatnonzero((LABELS > 0) | (np.arange(60) % 2 == 0))
    images, labels = IMAGES[kept], LABELS[kept]
    balance = len(labels) / (3 * np.bincount(labels))
    each = balance[labels] if weight == "balanced" else np.array([2.0, 1.0, 0.5])[labels]
    by_class = convex(**FIXED, class_weight=weight).fit(images, labels)
    by_image = convex(**FIXED).fit(images, labels, sample_weight=each)
    np.testing.assert_allclose(by_class.scores(IMAGES), by_image.scores(IMAGES), atol=1e-5)
    save_model(by_class, tmp_path)
    found = load_model(tmp_path)
    assert found.class_weight == weight
    assert found.certify(images, labels).relative_gap < 1e-6


def test_balanced_counts_images_by_their_weights():
    labels = np.array([0, 0, 0, 1])
    weights = image_weights(labels, [1.0, 1.0, 2.0, 2.0], "balanced")
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert image_weights(labels, None, None) is None


REFUSED = {
    "loss": ({"loss": "cross_entropy"}, "loss cross_entropy cannot weigh images"),
    "regulariser": ({"regulariser": "group"}, "regulariser group"),
    "formulation": ({"formulation": "relu"}, "formulation relu"),
    "sgd": ({"solver": "sgd"}, "solver sgd cannot weigh images"),
    "named": ({"solver": "fista", "betas": 1.0}, "solver fista cannot weigh images"),
    "object": ({"solver": Fista(), "betas": 1.0}, "solver fista cannot weigh images"),
    "gates": ({"gates": "dual", "betas": 1.0}, "gates dual cannot weigh images"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_weigh_is_named(settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        convex(**settings).fit(IMAGES, LABELS, sample_weight=COUNTS)
    assert "direct, kernel, cg" in str(caught.value)
    with pytest.raises(SettingError, match=message):
        convex(**settings, class_weight="balanced").fit(IMAGES, LABELS)


BAD = {
    "negative": (-COUNTS, "negative"),
    "NaN": (np.full(60, np.nan), "NaN"),
    "zero": (np.zeros(60), "all sample weights are zero"),
    "one too few": (np.ones(59), r"expected \(60,\)"),
    "two columns": (np.ones((60, 2)), r"expected \(60,\)"),
    "words": (["heavy"] * 60, "holds no numbers"),
    "one class": ((LABELS == 0).astype(float), "y has 1 class"),
}


@pytest.mark.parametrize(("weights", "message"), BAD.values(), ids=BAD)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        convex(**FIXED).fit(IMAGES, LABELS, sample_weight=weights)


@pytest.mark.parametrize("weight", ["heavy", {7: 1.0}, {0: -1.0}, [1, 2, 3]])
def test_class_weights_that_are_none_are_refused(weight):
    with pytest.raises((DataError, SettingError), match=r"class_weight|negative"):
        convex(**FIXED, class_weight=weight).fit(IMAGES, LABELS)


def test_small_gaps_of_weighted_programs_are_left_to_solvers_that_weigh():
    settings = {**FIXED, "tolerance": 1e-8, "class_weight": {0: 5.0, 1: 1.0, 2: 0.1}}
    model = convex(**settings).fit(IMAGES, LABELS)
    assert model.solution_.solver in SOLVERS
    assert model.certify(IMAGES, LABELS).relative_gap < 1e-6
