"""Arrays, labels and parameters that an estimator cannot use."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from convexcnn.errors import ConvexcnnError, SettingError
from convexcnn.models import (
    Block,
    ConvexConvClassifier,
    LayerwiseConvexCNN,
    NonConvexConvClassifier,
    load_model,
)
from convexcnn.solvers.sgd import SGD
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(30)
FLOAT = IMAGES.astype(np.float32)
NAMES = np.array(["ash", "beech", "cedar"])[LABELS]
ALWAYS = {
    ConvexConvClassifier: {"filter_size": 3, "gates": "gaussian", "n_gates": 2, "whiten": 4},
    NonConvexConvClassifier: {"filter_size": 3, "n_filters": 2, "whiten": 4},
    LayerwiseConvexCNN: {"blocks": [Block(n_gates=2, gates="gaussian", whiten=4)]},
}


@dataclass(frozen=True)
class BadFit:
    """A training that cannot work.

    Args:
        message: part of the error.
        X: images.
        y: labels.
        settings: parameters.
        model: class of the estimator.
        error: type of the error.
    """

    message: str
    X: Any = field(default_factory=lambda: IMAGES)
    y: Any = field(default_factory=lambda: LABELS)
    settings: dict[str, Any] = field(default_factory=dict)
    model: Callable[..., Any] = ConvexConvClassifier
    error: type[Exception] = ConvexcnnError

    @property
    def name(self) -> str:
        """The same in every process, as tests that run side by side need it."""
        where = " at 0x"  # of an object that says no more of itself
        return f"{self.message} {self.settings or ''}".partition(where)[0].strip()


def changed(value: float) -> np.ndarray:
    images = FLOAT.copy()
    images[3, 0, 2, 2] = value
    return images


def first_is(label: object, labels: np.ndarray = NAMES) -> np.ndarray:
    changed = labels.astype(object)
    changed[0] = label
    return changed


FITS = [
    # images
    BadFit("NaN or infinite pixels (first: image 3)", changed(np.nan)),
    BadFit("NaN or infinite pixels (first: image 3)", changed(np.inf)),
    BadFit("NaN or infinite pixels", FLOAT.astype(np.float64) * 1e300),
    BadFit("Complex data not supported", FLOAT * 1j),
    BadFit("Expected 2D array, got 1D array", IMAGES.ravel()),
    BadFit("Expected 2D array, got scalar", 7),
    BadFit("X has shape (1, 30, 1, 8, 8)", IMAGES[None]),
    BadFit("no image shape", IMAGES.reshape(30, 64)),
    BadFit("64 numbers per image, but", IMAGES.reshape(30, 64), settings={"image_shape": (9, 9)}),
    BadFit("image_shape says (1, 9, 9)", settings={"image_shape": (9, 9)}),
    BadFit("must be (channels, height, width)", settings={"image_shape": (8,)}),
    BadFit("must be (channels, height, width)", settings={"image_shape": (0, 8, 8)}),
    BadFit("must be (channels, height, width)", settings={"image_shape": np.array([8.5, 8])}),
    BadFit("0 sample(s)", IMAGES[:0], LABELS[:0]),
    BadFit("X has shape (30, 1, 0, 8)", IMAGES[:, :, :0]),
    BadFit("inhomogeneous", [[[1, 2], [3]], [[4, 5], [6, 7]]], [0, 1]),
    BadFit("strings", [["a", "b"]] * 30),
    BadFit("could not convert string to float", np.array([["a", 1]] * 30, object)),
    BadFit("Sparse data", scipy.sparse.eye_array(30).tocsr(), error=TypeError),
    BadFit("float() argument must be", np.array([[{}]] * 30, object), error=TypeError),
    BadFit("X is a tensor without", torch.from_numpy(IMAGES).to_sparse()),
    BadFit("X is a tensor without", torch.from_numpy(IMAGES).to("meta")),
    BadFit("y should be a 1d array", torch.from_numpy(IMAGES[:20])),
    # labels
    BadFit("y has shape (29,)", y=LABELS[:29]),
    BadFit("y has shape ()", y=None),
    BadFit("y has shape (30, 3)", y=np.eye(3)[LABELS]),
    BadFit("y holds fractions", y=LABELS + 0.5),
    BadFit("fractions, NaN or infinity", y=np.where(LABELS > 0, LABELS, np.nan)),
    BadFit("fractions, NaN or infinity", y=np.where(LABELS > 0, LABELS, -np.inf)),
    BadFit("fractions, NaN or infinity", y=first_is(np.inf, LABELS)),
    BadFit("y holds None, which is missing", y=first_is(None)),
    BadFit("y holds nan, which is missing", y=first_is(np.nan)),
    BadFit("y holds b'a', which is missing or no label", y=first_is(b"a")),
    BadFit("y mixes names and numbers", y=first_is(1)),
    BadFit("y masks labels", y=np.ma.array(LABELS, mask=LABELS == 1)),
    BadFit("y is ragged", y=[[1, 2], [3]] * 15),
    BadFit("y holds |S5", y=NAMES.astype("S")),
    BadFit("y holds datetime64[D]", y=LABELS.astype("M8[D]")),
    BadFit("y holds complex128", y=LABELS * 1j),
    BadFit("y is a tensor without", y=torch.from_numpy(LABELS).to("meta")),
    BadFit("y has 1 class", y=np.zeros(30)),
    BadFit("too few images to hold any out", IMAGES[:3], LABELS[:3]),
    # weights
    BadFit("class_weight is 'even'", settings={"class_weight": "even"}),
    BadFit("class_weight is {9: 1.0}", settings={"class_weight": {9: 1.0}}),
    BadFit("negative", settings={"class_weight": {0: -1.0}}),
    # parameters of another type
    BadFit("stride is 1.5; give a whole number", settings={"stride": 1.5}),
    BadFit("stride is '2'; give a whole number", settings={"stride": "2"}),
    BadFit("stride is True; give a whole number", settings={"stride": True}),
    BadFit("stride is None; give a whole number", settings={"stride": None}),
    BadFit("filter_size is [3]", settings={"filter_size": [3]}),
    BadFit("n_gates is 2.0; give a whole number or None", settings={"n_gates": 2.0}),
    BadFit("whiten is 'all'; give a whole number or None", settings={"whiten": "all"}),
    BadFit("centre is 1; give true or false", settings={"centre": 1}),
    BadFit("device is 0; give a name", settings={"device": 0}),
    BadFit("loss is <class", settings={"loss": float}),
    BadFit("random_state is 'lucky'", settings={"random_state": "lucky"}),
    BadFit("random_state is Generator", settings={"random_state": np.random.default_rng(0)}),
    BadFit("callback is 3; give a function", settings={"callback": 3}),
    BadFit("checkpoint is 3", settings={"checkpoint": 3}, model=LayerwiseConvexCNN),
    BadFit("memory_gb is '8'", settings={"memory_gb": "8"}),
    BadFit("betas is ('a',)", settings={"betas": ("a",)}),
    BadFit("neither a name nor a solver", settings={"solver": 3}),
    # parameters out of range, or of no known name
    BadFit("stride", settings={"stride": 0}),
    BadFit("padding", settings={"padding": -1}),
    BadFit("filter_size 9 is larger than the 8x8 image", settings={"filter_size": 9}),
    BadFit("filter_size", settings={"filter_size": 0}),
    BadFit("pooling", settings={"pooling": 7}),
    BadFit("whiten is 0", settings={"whiten": 0}),
    BadFit("n_gates is 0", settings={"n_gates": 0}),
    BadFit("betas is ()", settings={"betas": ()}),
    BadFit("betas is 0", settings={"betas": 0}),
    BadFit("betas is (-1.0,)", settings={"betas": (-1.0,)}),
    BadFit("betas is nan", settings={"betas": float("nan")}),
    BadFit("betas is 1000", settings={"betas": 10**400}),
    BadFit("betas is 1e+308", settings={"betas": 1e308}),
    BadFit("memory_gb is 1000", settings={"memory_gb": 10**400}),
    BadFit("validation_fraction is 1", settings={"validation_fraction": 1.0}),
    BadFit("validation_fraction is nan", settings={"validation_fraction": float("nan")}),
    BadFit("tolerance is 0", settings={"tolerance": 0.0}),
    BadFit("memory_gb is inf", settings={"memory_gb": float("inf")}),
    BadFit("loss 'hinge' is not known", settings={"loss": "hinge"}),
    BadFit("pool 'median' is not known", settings={"pool": "median"}),
    BadFit("gates 'best' is not known", settings={"gates": "best"}),
    BadFit("solver 'newton' is not known", settings={"solver": "newton"}),
    BadFit("augment 'rotate' is not known", settings={"augment": "rotate"}),
    BadFit("device 'tpu' is not known", settings={"device": "tpu"}),
    BadFit("formulation 'exact' is not known", settings={"formulation": "exact"}),
    BadFit("regulariser 'l1' is not known", settings={"regulariser": "l1"}),
    # the other estimators
    BadFit("n_filters is 0", settings={"n_filters": 0}, model=NonConvexConvClassifier),
    BadFit("n_filters is 2.5", settings={"n_filters": 2.5}, model=NonConvexConvClassifier),
    BadFit("beta -1.0", settings={"beta": -1.0}, model=NonConvexConvClassifier),
    BadFit("beta 1e+308", settings={"beta": 1e308}, model=NonConvexConvClassifier),
    BadFit("beta is 1000", settings={"beta": 10**400}, model=NonConvexConvClassifier),
    BadFit("beta nan", settings={"beta": float("nan")}, model=NonConvexConvClassifier),
    BadFit(
        "solver 'lbfgs' is not known", settings={"solver": "lbfgs"}, model=NonConvexConvClassifier
    ),
    BadFit("blocks", settings={"blocks": "huge"}, model=LayerwiseConvexCNN),
    BadFit("block", settings={"blocks": []}, model=LayerwiseConvexCNN),
    BadFit("budget is -1", settings={"budget": -1.0}, model=LayerwiseConvexCNN),
    BadFit("budget is 'long'", settings={"budget": "long"}, model=LayerwiseConvexCNN),
    BadFit("memory_gb is 0", settings={"memory_gb": 0.0}, model=LayerwiseConvexCNN),
]


@pytest.mark.parametrize("case", FITS, ids=lambda case: case.name)
def test_a_bad_fit_is_refused_and_leaves_nothing(case):
    model = case.model(**ALWAYS[case.model] | case.settings)
    before = vars(model).copy()
    with pytest.raises(case.error) as caught:
        model.fit(case.X, case.y)
    assert case.message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(vars(model)) == set(before)


PREDICTIONS = {
    "NaN or infinite pixels (first: image 3)": changed(np.nan),
    "X has images of shape (3, 8, 8)": IMAGES.repeat(3, 1),
    "X has images of shape (1, 6, 8)": IMAGES[:, :, :6],
    "X has 60 features, but": IMAGES.reshape(30, 64)[:, :60],
    "Expected 2D array, got 1D array": IMAGES[0].ravel(),
    "strings": [["a"]],
    "Complex data not supported": FLOAT * 1j,
    "X is a tensor without": torch.from_numpy(FLOAT).to("meta"),
}


@pytest.fixture(scope="module")
def trained():
    return convex(betas=0.1).fit(IMAGES, LABELS)


@pytest.mark.parametrize("message", PREDICTIONS)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score"])
def test_images_of_another_kind_are_refused(message, method, trained):
    arguments = [PREDICTIONS[message]]
    if method == "score":
        arguments.append(LABELS[: len(arguments[0])])
    with pytest.raises(ConvexcnnError) as caught:
        getattr(trained, method)(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("learning_rate is nan", {"learning_rate": float("nan")}),
        ("learning_rate is inf", {"learning_rate": float("inf")}),
        ("learning_rate is 1e+308", {"learning_rate": 1e308}),
        ("learning_rate is -1", {"learning_rate": -1}),
        ("learning_rate is 'fast'", {"learning_rate": "fast"}),
        ("momentum is nan", {"momentum": float("nan")}),
        ("momentum is 1", {"momentum": 1.0}),
        ("epochs is 1.5", {"epochs": 1.5}),
        ("epochs is 0", {"epochs": 0}),
        ("batch_size is 0", {"batch_size": 0}),
        ("log_every is 0", {"log_every": 0}),
        ("method 'newton' is not known", {"method": "newton"}),
    ],
)
def test_a_descent_that_cannot_work_is_refused(message, setting):
    with pytest.raises(SettingError, match=re.escape(message)):
        SGD(**setting)


@pytest.mark.parametrize("betas", [10**400, 1e308, (0.1, 10**400), float("inf")])
def test_a_block_refuses_weights_beyond_float32(betas):
    with pytest.raises(SettingError, match="betas is"):
        Block(betas=betas)


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(ConvexcnnError, match="is missing"):
        load_model(tmp_path)
