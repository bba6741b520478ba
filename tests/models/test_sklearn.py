"""Both classifiers are scikit-learn estimators: clone, search, pipelines, and its own checks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from convexcnn.models import (
    Block,
    ConvexConvClassifier,
    LayerwiseConvexCNN,
    NonConvexConvClassifier,
)
from convexcnn.solvers.sgd import SGD
from small import stripes
from tiny_models import convex, non_convex

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
        (non_convex(), {"n_filters": np.array([2, 8])}),
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


# scikit-learn's own checks feed rows of numbers. Taken as the channels of a small image, they
# become images for which 1x1 filters make an ordinary two-layer network.


def as_pixels(X):
    X = np.asarray(X)
    return X[:, :, None, None].repeat(2, axis=3) if X.ndim == 2 else X


class Rows:
    """Mixed in before a classifier: rows (n, d) as images (n, d, 1, 2)."""

    def fit(self, X, y):
        super().fit(as_pixels(X), y)
        self.n_features_in_ = np.shape(X)[1]
        return self

    def scores(self, X):
        return super().scores(as_pixels(X))


class ConvexRows(Rows, ConvexConvClassifier):
    pass


class NonConvexRows(Rows, NonConvexConvClassifier):
    pass


class LayerwiseRows(Rows, LayerwiseConvexCNN):
    pass


EXPECTED = {
    "check_n_features_in_after_fitting": "the message speaks of shapes of images",
    "check_complex_data": "the message speaks of images",
    "check_dtype_object": "arrays of Python objects are no images",
    "check_estimators_empty_data_messages": "the message speaks of images",
    "check_estimator_sparse_tag": "images are dense",
    "check_estimator_sparse_array": "images are dense",
    "check_estimator_sparse_matrix": "images are dense",
    "check_classifier_data_not_an_array": "np.shape is not allowed on the class that stands in",
    "check_supervised_y_2d": "labels in a column are refused, not warned about",
    "check_fit2d_predict1d": "the message speaks of images",
    "check_requires_y_none": "the message speaks of labels",
    "check_methods_subset_invariance": "float32 products round by the size of the batch",
    "check_methods_sample_order_invariance": "float32 products round by the place in the batch",
}
PIXEL = Block(filter_size=1, padding=0, pooling=1, whiten=None, gates="gaussian", n_gates=16)
FIXED = {"filter_size": 1, "stride": 1, "pooling": 1, "whiten": None, "augment": "none"}


@pytest.mark.parametrize(
    "model",
    [
        ConvexRows(n_gates=16, gates="gaussian", centre=False, **FIXED),
        NonConvexRows(
            n_filters=64,
            solver=SGD(epochs=20, batch_size=50, learning_rate=0.02, method="adam"),
            centre=False,
            **FIXED,
        ),
        LayerwiseRows(blocks=[PIXEL, PIXEL], centre=False, augment="none"),
    ],
    ids=["convex", "non-convex", "layerwise"],
)
@pytest.mark.filterwarnings("ignore")  # the checks warn about what they skip and expect
def test_the_checks_of_scikit_learn_pass(model):
    results = check_estimator(model, expected_failed_checks=EXPECTED, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert sum(r["status"] == "passed" for r in results) >= 40
