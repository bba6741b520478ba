"""SGD steps as torch's does, ends near the exact optimum, and says when it diverges."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.block import BatchStatistics
from convexcnn.programs.gated import GatedProgram, PenalisedConeProgram
from convexcnn.programs.losses import get_loss
from convexcnn.programs.relu_cnn import ReluProgram
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.sgd import SGD
from small import generator, stripe_stream

N, K, BETA = 30, 3, 0.1
GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2)
STREAM = stripe_stream(N)
TRANSFORM = fit_whitening(STREAM.block(slice(None))[0], GEOMETRY, 5)


def make_features() -> GatedFeatures:
    gates = torch.randn(3, TRANSFORM.dim, generator=generator())
    return GatedFeatures(GEOMETRY, TRANSFORM, gates)


def gated(loss: str = "squared") -> GatedProgram:
    return GatedProgram(make_features(), K, get_loss(loss), beta=BETA)


def penalised() -> PenalisedConeProgram:
    return PenalisedConeProgram(make_features(), K, get_loss("squared"), beta=BETA)


def network() -> ReluProgram:
    loss = get_loss("cross_entropy")
    return ReluProgram(GEOMETRY, TRANSFORM, 6, K, loss, beta=1e-3, generator=generator(2))


def objective(program) -> float:
    """The mean loss over all images plus the regulariser, wherever the program is."""
    seen = BatchStatistics()
    program.batch_gradient(*STREAM.block(slice(None)), seen)
    program.zero_grad()
    return seen.means()["loss"] + program.regularise()


def solve(solver: SGD, program, seed: int = 0, **kwargs):
    with torch.no_grad():
        return solver.solve(program, STREAM, generator=generator(seed), **kwargs)


def test_descent_ends_at_the_optimum_of_the_exact_solver():
    program = gated()
    solve(SGD(epochs=400, batch_size=N, learning_rate=0.2), program)
    optimum = gated()
    solution = Direct([BETA]).solve(optimum.features, STREAM)
    optimum.weights, optimum.bias = solution.weights, solution.bias
    assert objective(program) == pytest.approx(objective(optimum), rel=1e-5)
    torch.testing.assert_close(program.weights, solution.weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", [gated, penalised, network])
@pytest.mark.parametrize(
    "solver",
    [SGD(epochs=10, batch_size=8, learning_rate=0.02), SGD(10, 8, 0.01, method="adam")],
    ids=["sgd", "adam"],
)
def test_every_program_goes_down(make, solver):
    program = make()
    before = objective(program)
    solve(solver, program)
    assert objective(program) < 0.9 * before


@pytest.mark.parametrize("make", [gated, network])
def test_steps_are_those_of_torch(make):
    """Heavy-ball momentum on the batches that the generator orders."""
    mine, theirs = make(), make()
    solve(SGD(epochs=3, batch_size=8, learning_rate=0.05, momentum=0.8), mine)
    velocity = [torch.zeros_like(p) for p in theirs.parameters]
    source = generator(0)
    for _ in range(3):
        for images, targets in STREAM.shuffled(8, source):
            theirs.batch_gradient(images, targets, BatchStatistics())
            for v, parameter in zip(velocity, theirs.parameters, strict=True):
                v.mul_(0.8).add_(parameter.grad)
                parameter.sub_(0.05 * v)
    torch.testing.assert_close(mine.parameters, theirs.parameters)


@pytest.mark.parametrize("steps", range(1, 12))
def test_one_cycle_takes_any_number_of_steps(steps):
    events = solve(SGD(steps, N, 0.01, method="adam", log_every=1), gated())
    assert len(events) == steps


def test_the_same_seed_gives_the_same_bits():
    def trained(seed):
        program = network()
        events = solve(SGD(epochs=3, batch_size=8, learning_rate=0.05), program, seed)
        return program.filters, [event["train_loss"] for event in events]

    (first, losses), (second, again), (third, _) = trained(0), trained(0), trained(1)
    assert torch.equal(first, second)
    assert losses == again
    assert not torch.equal(first, third)


def test_events_say_how_far_and_how_well():
    told = []
    solver = SGD(epochs=3, batch_size=8, learning_rate=0.05, log_every=5)
    events = solve(solver, network(), callback=told.append, phase="sgd", colour="blue")
    assert told == events
    assert [event["step"] for event in events] == [5, 10, 12]
    assert [event["epoch"] for event in events] == [1.25, 2.5, 3.0]
    for event in events:
        assert event["steps"] == 12
        assert (event["phase"], event["colour"]) == ("sgd", "blue")
        assert 0 <= event["train_accuracy"] <= 1
        assert event["train_loss"] > 0
    seconds = [event["seconds"] for event in events]
    assert seconds == sorted(seconds)
    json.dumps(events)


@pytest.mark.parametrize("log_every", [2, 3, 100])
def test_an_event_holds_the_means_since_the_last_one(log_every):
    """Without steps (learning rate 0) the measures of a batch do not depend on its turn."""

    def logged(every):
        solver = SGD(epochs=1, batch_size=8, learning_rate=0.0, log_every=every)
        return solve(solver, network())

    each, sizes = logged(1), [8, 8, 8, 6]
    for event in logged(log_every):
        stop = event["step"]
        rows = slice((stop - 1) // log_every * log_every, stop)
        for name in ("train_loss", "train_accuracy"):
            values = [e[name] for e in each[rows]]
            assert event[name] == pytest.approx(np.average(values, weights=sizes[rows]))


def test_measures_are_taken_before_each_step():
    program = gated()
    first = solve(SGD(epochs=1, batch_size=N, learning_rate=0.1, log_every=1), program)[0]
    assert first["train_loss"] == pytest.approx(0.5)  # zero weights score 1/2
    assert first["train_accuracy"] == pytest.approx(1 / K)


@pytest.mark.parametrize("make", [gated, network])
def test_divergence_names_the_learning_rate(make):
    solver = SGD(epochs=200, batch_size=8, learning_rate=1e4, log_every=1)
    with pytest.raises(SettingError, match=r"diverged at step .* learning_rate below 10000"):
        solve(solver, make())


def test_an_interruption_from_the_callback_comes_through():
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(SGD(epochs=1, batch_size=8, log_every=1), gated(), callback=interrupt)
