"""Column generation: the optimum at a fixed beta never rises, and its gates are of use."""

from __future__ import annotations

import itertools

import pytest
import torch

from convexcnn.models.column_generation import unlike
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(40)
PROGRAMS = [
    ("gated", "l2", "squared"),
    ("gated", "group", "squared"),
    ("gated", "group", "cross_entropy"),
    ("gated", "nuclear", "squared"),
    ("relu", "group", "squared"),
]


def settings_of(program: tuple[str, str, str]) -> dict[str, object]:
    names = ("formulation", "regulariser", "loss")
    return dict(zip(names, program, strict=True)) | {"n_gates": 7, "whiten": 3, "betas": 0.01}


@pytest.mark.parametrize("program", PROGRAMS, ids="-".join)
def test_the_optimum_never_rises(program):
    events = []
    model = convex(
        gates="dual", tolerance=1e-5, callback=events.append, **settings_of(program)
    ).fit(IMAGES, LABELS)
    rounds = [event for event in events if event["phase"] == "column generation"]
    assert [event["step"] for event in rounds] == [1, 2, 3]
    objectives = [event["objective"] for event in rounds]
    objectives.append(model.certify(IMAGES, LABELS).primal)
    for before, after in itertools.pairwise(objectives):
        assert after <= before * (1 + 2e-5)
    assert objectives[-1] < objectives[0] * 0.99
    assert model.gates_.shape == (7, 4)


def test_the_neurons_found_lower_the_optimum_more_than_patches_do():
    program = settings_of(("gated", "group", "squared"))
    found = {
        gates: convex(gates=gates, tolerance=1e-5, **program)
        .fit(IMAGES, LABELS)
        .certify(IMAGES, LABELS)
        .primal
        for gates in ("dual", "patches", "gaussian")
    }
    assert found["dual"] < min(found["patches"], found["gaussian"])


def test_held_out_images_choose_beta_once():
    events = []
    program = settings_of(("gated", "group", "squared")) | {"betas": None}
    convex(gates="dual", callback=events.append, **program).fit(IMAGES, LABELS)
    betas = {event["beta"] for event in events if event["phase"] == "column generation"}
    assert len(betas) == 1


def test_gates_that_are_there_already_come_last():
    gates = torch.eye(3)[:1]
    neurons = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert torch.equal(unlike(gates, neurons, 2), neurons[[1, 3]])
    assert len(unlike(gates, neurons, 4)) == 4
