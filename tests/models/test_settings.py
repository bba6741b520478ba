"""Parameters that cannot work are named in one line, before any attribute is set."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn.errors import SettingError
from convexcnn.models.devices import resolve_device
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.kernel import Kernel
from convexcnn.solvers.multiple_kernel import MultipleKernel
from convexcnn.solvers.sgd import SGD
from convexcnn.solvers.warm_path import WarmPath
from small import stripes
from tiny_models import MAKERS, convex, non_convex

IMAGES, LABELS = stripes(30)
SGD_ONCE = SGD(epochs=1, batch_size=10)

BOTH = [
    ({"filter_size": 9}, "filter_size 9 is larger than the 8x8 image"),
    ({"filter_size": 0}, "filter_size is 0"),
    ({"stride": 0}, "stride is 0"),
    ({"padding": -1}, "padding is -1"),
    ({"pooling": 0}, "cells is 0"),
    ({"pooling": 4}, "pooling 4 asks for more cells per side than the 3x3 grid"),
    ({"whiten": 0}, "whiten is 0; keep between 1 and 9"),
    ({"loss": "hinge"}, "loss 'hinge' is not known"),
    ({"augment": "rotate"}, "augment 'rotate' is not known; choose one of none, flip"),
    ({"validation_fraction": 1.0}, r"validation_fraction is 1\.0; give a number between"),
    ({"validation_fraction": -0.1}, r"validation_fraction is -0\.1"),
    ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
    ({"device": "abacus"}, "device 'abacus' is not known"),
    ({"device": "cpu:1"}, "device 'cpu:1' is not known"),
    ({"random_state": -1}, "random_state is -1; give a number from 0 to 4294967295"),
    ({"random_state": 2**32}, "random_state is 4294967296"),
    ({"solver": "magic"}, "solver 'magic' is not known"),
    ({"image_shape": (8, 8, 8, 8)}, "image_shape"),
]
CONVEX = [
    ({"formulation": "spiking"}, "formulation 'spiking' is not known; choose one of gated"),
    ({"regulariser": "l7"}, "regulariser 'l7' is not known"),
    ({"solver": 3}, "solver 3 is neither a name nor a solver; choose one of auto, direct"),
    ({"gates": "garden"}, "gates 'garden' is not known; choose one of gaussian, patches, sgd"),
    ({"gates": "dual", "solver": SGD_ONCE}, "gates dual solves the program again and again"),
    ({"gates": "dual", "solver": Direct([0.1])}, "gates dual solves the program again and again"),
    ({"n_gates": 0}, "n_gates is 0; give at least 1"),
    ({"n_gates": -3}, "n_gates is -3"),
    ({"betas": 0.0}, r"betas is 0\.0; give positive numbers"),
    ({"betas": -1.0}, r"betas is -1\.0"),
    ({"betas": [0.1, 0.0]}, r"betas is \[0\.1, 0\.0\]"),
    ({"betas": []}, r"betas is \[\]"),
    ({"betas": float("nan")}, "betas is nan"),
    ({"betas": [float("inf"), 1.0]}, "betas is"),
    ({"betas": -1.0, "solver": SGD_ONCE}, "betas is -1"),
    ({"betas": [0.1, 0.2], "solver": SGD_ONCE}, "solver sgd trains at one beta, and betas has 2"),
    ({"betas": 0.1, "solver": Direct([0.1])}, r"give Direct\(betas=\.\.\.\) only"),
    ({"solver": Kernel([0.0])}, r"betas is \[0\.0\]; give positive numbers"),
    ({"loss": "cross_entropy", "solver": "direct"}, "direct cannot solve .*; use .*fista"),
    ({"loss": "cross_entropy", "solver": Direct([0.1])}, "direct cannot solve .*; use .*fista"),
    ({"regulariser": "group", "solver": "kernel"}, "kernel cannot solve .*use .*multiple-kernel"),
    ({"regulariser": "group", "solver": WarmPath(Fista(), ProgramKind())}, "fista cannot solve"),
    ({"regulariser": "nuclear", "solver": MultipleKernel()}, "multiple-kernel cannot solve"),
    ({"regulariser": "group", "solver": "sgd"}, "sgd cannot solve .*; use solver auto or"),
    ({"formulation": "relu", "solver": "sgd"}, "sgd cannot solve .*; use solver .*interior-point"),
    ({"formulation": "relu", "solver": "fista"}, "fista cannot solve .*; use .*interior-point"),
    ({"formulation": "relu", "regulariser": "nuclear"}, "nuclear has no exact program"),
    ({"formulation": "relu-penalised"}, "by solver sgd only, not by auto; .* formulation relu"),
    ({"tolerance": 0.0}, r"tolerance is 0\.0; give a positive number"),
    ({"tolerance": float("nan")}, "tolerance is nan"),
    ({"tolerance": 0.1, "solver": SGD_ONCE}, "tolerance has no meaning for solver sgd"),
    (
        {"tolerance": 0.1, "solver": Fista(), "regulariser": "group"},
        r"Fista\(tolerance=\.\.\.\) only",
    ),
    ({"memory_gb": 0}, "memory_gb is 0; give a positive number"),
    ({"memory_gb": -2.0}, r"memory_gb is -2\.0"),
]
NON_CONVEX = [
    ({"n_filters": 0}, "n_filters is 0"),
    ({"beta": -0.1}, r"beta -0\.1; give at least 1 filter and a beta of 0 or more"),
    ({"beta": float("nan")}, "beta nan"),
    ({"solver": SGD(epochs=200, batch_size=10, learning_rate=1e9)}, "the loss diverged"),
]
CASES = [
    *((name, settings, complaint) for name in MAKERS for settings, complaint in BOTH),
    *(("convex", settings, complaint) for settings, complaint in CONVEX),
    *(("non-convex", settings, complaint) for settings, complaint in NON_CONVEX),
]


@pytest.mark.parametrize(("name", "settings", "complaint"), CASES, ids=str)
def test_a_parameter_that_cannot_work_is_named(name, settings, complaint):
    model = MAKERS[name](**settings)
    before = dict(vars(model))
    with pytest.raises(SettingError, match=complaint) as caught:
        model.fit(IMAGES, LABELS)
    assert "\n" not in str(caught.value)
    assert vars(model) == before


@pytest.mark.parametrize("solver", [Direct, Kernel])
@pytest.mark.parametrize("betas", [None, [0.1, 0.2]])
def test_several_betas_need_held_out_images(solver, betas):
    with pytest.raises(SettingError, match="no held-out images are there to choose by"):
        solver(betas).solve(None, None)


def test_a_validation_fraction_that_is_not_read_is_not_judged():
    assert convex(betas=0.1, validation_fraction=0.0).fit(IMAGES, LABELS).beta_ == 0.1
    assert non_convex(validation_fraction=0.0).fit(IMAGES, LABELS).temperature_ == 1


def test_classes_with_one_image_each_leave_nothing_to_hold_out(make):
    X, y = IMAGES[:3], np.array(["a", "b", "c"])
    with pytest.raises(
        ValueError, match="too few images to hold any out; give more, one value of betas"
    ):
        make().fit(X, y)


@pytest.mark.parametrize("available", [False, True])
def test_devices_that_are_there(available, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2 * available)
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if available else "cpu")
    if available:
        assert resolve_device("cuda:1") == "cuda:1"
        with pytest.raises(SettingError, match="cuda:2 is not there: torch finds 2 CUDA devices"):
            resolve_device("cuda:2")
    else:
        with pytest.raises(SettingError, match="torch finds no CUDA; use cpu or auto"):
            resolve_device("cuda:1")
    for name in ("cpu:foo", "cuda:", "cuda:-1", "cuda:01", "cuda:\N{SUPERSCRIPT TWO}", "cudax", ""):
        with pytest.raises(SettingError, match="is not known; use cpu, cuda, cuda:1 or auto"):
            resolve_device(name)


def test_a_seed_may_be_any_of_32_bits():
    for seed in (None, 0, 2**32 - 1):
        convex(random_state=seed).check_parameters()


@pytest.mark.parametrize("name", MAKERS)
def test_more_whitened_directions_than_a_patch_has_means_all_of_them(name):
    most = MAKERS[name](whiten=48).fit(IMAGES, LABELS)
    every = MAKERS[name](whiten=9).fit(IMAGES, LABELS)
    assert most.transform_.dim == every.transform_.dim == 10
    assert (most.predict(IMAGES) == every.predict(IMAGES)).all()


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (Direct(), "Direct()"),
        (Kernel([0.5], tolerance=1e-4), "Kernel(betas=[0.5], tolerance=0.0001)"),
        (WarmPath(Fista(), ProgramKind()), "WarmPath(solver=Fista("),
    ],
)
def test_a_solver_is_shown_as_it_was_made(solver, words):
    assert repr(solver).startswith(words)
    assert words.partition("(")[0] in repr(convex(solver=solver))
