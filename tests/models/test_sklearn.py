"""Both classifiers are scikit-learn estimators: clone, search, pipelines, and its own checks."""

from __future__ import annotations

import io

import joblib
import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from convexcnn.models import (
    Block,
    ConvexConvClassifier,
    LayerwiseConvexCNN,
    NonConvexConvClassifier,
    load_model,
    save_model,
)
from convexcnn.solvers.sgd import SGD
from small import stripes
from tiny_models import convex, layerwise, non_convex

IMAGES, LABELS = stripes(60)


def test_they_are_classifiers(make):
    assert is_classifier(make())


def test_parameters_are_kept_as_they_are_given(make):
    settings = {"stride": 3, "whiten": None, "image_shape": (1, 8, 8), "device": "cpu"}
    model = make(**settings)
    assert settings.items() <= model.get_params().items()
    assert all(getattr(model, name) is value for name, value in model.get_params().items())
    assert model.set_params(stride=1) is model
    assert model.get_params()["stride"] == 1


def test_a_clone_has_the_parameters_and_nothing_learned(model):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "classes_")


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_an_untrained_model_says_so(make, method):
    with pytest.raises(NotFittedError, match="is not trained; call fit first"):
        getattr(make(), method)(IMAGES)


@pytest.mark.parametrize(
    ("model", "grid"),
    [
        (convex(), {"stride": [1, 2], "betas": [1e-2, 1.0]}),
        (non_convex(), {"n_filters": np.array([2, 8]), "random_state": np.arange(2)}),
    ],
    ids=["convex", "non-convex"],
)
def test_grid_search_chooses_parameters(model, grid):
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(IMAGES, LABELS)
    assert search.best_score_ > 0.7
    assert search.best_estimator_.score(IMAGES, LABELS) > 0.8
    assert set(search.best_params_) == set(grid)


def test_flattened_images_go_through_pipelines(make):
    model = make(image_shape=(1, 8, 8))
    pipeline = make_pipeline(FunctionTransformer(lambda X: 255 - X), model)
    scores = cross_val_score(pipeline, IMAGES.reshape(60, -1), LABELS, cv=2)
    assert scores.mean() > 0.7


def test_probabilities_are_calibrated_by_scikit_learn(make):
    calibrated = CalibratedClassifierCV(make(), cv=2).fit(IMAGES, LABELS)
    chances = calibrated.predict_proba(IMAGES)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert (chances.argmax(1) == LABELS).mean() > 0.8


def test_weights_go_through_grid_search():
    weights = 1.0 + (LABELS == 0)
    model = convex(gates="gaussian")
    search = GridSearchCV(model, {"betas": [0.01, 0.1]}, cv=2, error_score="raise")
    assert search.fit(IMAGES, LABELS, sample_weight=weights).best_score_ > 0.6


def test_seeds_are_what_scikit_learn_takes():
    def bits(seed):
        model = convex(gates="gaussian", betas=0.1, random_state=seed)
        return model.fit(IMAGES, LABELS).scores(IMAGES)

    np.testing.assert_array_equal(bits(np.int64(3)), bits(3))
    np.testing.assert_array_equal(bits(np.random.RandomState(3)), bits(np.random.RandomState(3)))
    generator = np.random.RandomState(3)
    assert not np.array_equal(bits(generator), bits(generator))
    assert not np.array_equal(bits(None), bits(None))


def test_a_drawn_seed_is_saved_and_certified():
    model = layerwise(random_state=np.random.RandomState(1)).fit(IMAGES, LABELS)
    assert model.certify(IMAGES, LABELS) == model.certificates_


def test_columns_of_a_table_keep_their_names_and_their_order(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(IMAGES.reshape(60, -1)[:, :3], columns=["red", "green", "blue"])
    model = ConvexConvClassifier(n_gates=4, gates="gaussian", betas=0.1, **FIXED, **ROWS)
    assert list(model.fit(table, LABELS).feature_names_in_) == ["red", "green", "blue"]
    save_model(model, tmp_path)
    for found in (model, load_model(tmp_path)):
        np.testing.assert_array_equal(found.predict(table), model.predict(table))
        with pytest.raises(ValueError, match="must be in the same order"):
            found.predict(table[["blue", "green", "red"]])
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            found.predict(table.to_numpy())
    assert not hasattr(model.fit(table.to_numpy(), LABELS), "feature_names_in_")


def test_a_trained_model_goes_through_joblib(model):
    """As parallel searches do; the library itself never unpickles."""
    memory = io.BytesIO()
    joblib.dump(model, memory)
    memory.seek(0)
    found = joblib.load(memory)
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))


def test_images_may_be_flat_and_may_have_a_column_of_labels(make):
    flat = make(image_shape=np.array([1, 8, 8])).fit(IMAGES.reshape(60, -1), LABELS)
    square = make().fit(IMAGES, LABELS)
    np.testing.assert_array_equal(flat.scores(IMAGES), square.scores(IMAGES.reshape(60, -1)))
    with pytest.warns(DataConversionWarning, match="column-vector"):
        make().fit(IMAGES, LABELS[:, None])


def test_a_training_that_fails_leaves_the_last_one_as_it_was(make):
    model = make().fit(IMAGES, LABELS)
    before = vars(model).copy()
    scores = model.scores(IMAGES)

    def fail(event):
        raise RuntimeError("stopped")

    model.set_params(callback=fail)
    with pytest.raises(RuntimeError, match="stopped"):
        model.fit(255 - IMAGES, LABELS[::-1].copy())
    after = vars(model).copy()
    assert after.pop("callback") is fail
    before.pop("callback")
    assert all(after[name] is value for name, value in before.items())
    assert set(after) == set(before)
    np.testing.assert_array_equal(model.scores(IMAGES), scores)


# scikit-learn's own checks feed rows of numbers. Taken as the channels of images of one pixel,
# they become images for which 1x1 filters make an ordinary two-layer network.

EXPECTED = {
    "check_methods_subset_invariance": "float32 products round by the size of the batch",
    "check_methods_sample_order_invariance": "float32 products round by the place in the batch",
}
ROUNDED = {
    "check_sample_weight_equivalence_on_dense_data": "copies are summed in another order, in "
    "float32; test_image_weights compares them to 2e-5",
}
ROWS = {"image_shape": (-1, 1, 1), "centre": False, "augment": "none"}
PIXEL = Block(filter_size=1, padding=0, pooling=1, whiten=None, gates="gaussian", n_gates=16)
FIXED = {"filter_size": 1, "stride": 1, "pooling": 1, "whiten": None}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ConvexConvClassifier(n_gates=16, gates="gaussian", **FIXED, **ROWS), EXPECTED | ROUNDED),
        (
            NonConvexConvClassifier(
                n_filters=64,
                solver=SGD(epochs=20, batch_size=50, learning_rate=0.02, method="adam"),
                **FIXED,
                **ROWS,
            ),
            EXPECTED,
        ),
        (LayerwiseConvexCNN(blocks=[PIXEL, PIXEL], **ROWS), EXPECTED),
    ],
    ids=["convex", "non-convex", "layerwise"],
)
@pytest.mark.filterwarnings("ignore")  # the checks warn about what they skip and expect
def test_the_checks_of_scikit_learn_pass(model, expected):
    results = check_estimator(model, expected_failed_checks=expected, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert {r["check_name"] for r in results if r["status"] == "xfail"} <= set(expected)
    assert sum(r["status"] == "passed" for r in results) >= 50
