"""Evaluations count every image once, whatever classes the model has met."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn import reference
from convexcnn.data.dataset import ImageSplit
from convexcnn.models.evaluation import Evaluation, evaluate_model
from small import one_hot, stripes
from tiny_models import convex

IMAGES, LABELS = stripes(60)


def test_an_evaluation_says_what_the_model_does(model):
    found = evaluate_model(model, ImageSplit(IMAGES, LABELS), 3)
    loss = reference.LOSSES[model.loss]
    assert found.accuracy == pytest.approx(model.score(IMAGES, LABELS))
    assert found.loss == pytest.approx(loss(model.scores(IMAGES), one_hot(LABELS, 3)), rel=1e-6)
    assert found.confusion.sum() == 60
    predicted = model.predict(IMAGES)
    for true in range(3):
        for guess in range(3):
            count = ((true == LABELS) & (predicted == guess)).sum()
            assert found.confusion[true, guess] == count
    assert found.summary() == {"loss": found.loss, "accuracy": found.accuracy}


def test_a_class_the_model_never_met_counts_as_wrong(make):
    X, y = IMAGES[LABELS != 1], LABELS[LABELS != 1]
    model = make().fit(X, y)
    found = evaluate_model(model, ImageSplit(IMAGES, LABELS), 3)
    assert found.confusion[:, 1].sum() == 0
    assert found.per_class[1] == 0
    assert found.accuracy == pytest.approx((model.predict(IMAGES) == LABELS).mean())
    if model.loss == "squared":
        scores = np.insert(model.scores(IMAGES), 1, 0.0, axis=1)
        assert found.loss == pytest.approx(
            reference.squared_loss(scores, one_hot(LABELS, 3)), rel=1e-6
        )


def test_accuracy_by_class_leaves_classes_without_images_open():
    found = Evaluation(0.1, np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]]))
    assert found.per_class == [0.75, None, 0.5]
    assert found.accuracy == 0.625


def test_a_class_without_training_images_costs_cross_entropy_nothing_if_it_never_occurs():
    model = convex(loss="cross_entropy", betas=0.1).fit(IMAGES[LABELS != 1], LABELS[LABELS != 1])
    known = ImageSplit(IMAGES[LABELS != 1], LABELS[LABELS != 1])
    found = evaluate_model(model, known, 3)
    targets = one_hot(known.labels // 2, 2)
    assert found.loss == pytest.approx(
        reference.LOSSES["cross_entropy"](model.scores(known.images), targets), rel=1e-6
    )
    assert evaluate_model(model, ImageSplit(IMAGES, LABELS), 3).loss == np.inf
