"""Blocks on their own neurons: learned filters, exact heads on pooled responses, their proof."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from convexcnn.data.preprocess import ImageScaler
from convexcnn.models import Block, LayerwiseConvexCNN
from convexcnn.models.block_training import (
    ON_KNOWN_FEATURES,
    block_solver,
    problem_size,
    solver_settings,
)
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.neuron_network import (
    NeuronDescent,
    NeuronNetwork,
    descent_dtype,
    one_cycle,
)
from convexcnn.models.stack_training import freeze
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import KnownFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_triangular_whitening
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.admm import ADMM
from convexcnn.solvers.choose import needed_gb
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.registry import solvers_for
from small import generator, stripe_stream, stripes
from tiny_models import TINY_NEURONS
from tiny_models import layerwise as stack

IMAGES, LABELS = stripes(90, channels=2)


@pytest.fixture(scope="module")
def model() -> LayerwiseConvexCNN:
    """A trained stack; not to be changed."""
    return stack(blocks=TINY_NEURONS, augment="flip+crop").fit(IMAGES, LABELS)


def phi_of(model: LayerwiseConvexCNN, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and one-hot targets of a block's training rows, by plain convolutions in float64."""
    stream = model.training_stream(IMAGES, LABELS).paired()
    split = model._held_out(stream)
    for block in model.blocks_[: number - 1]:
        stream = freeze(block, stream, split, MemoryPlan.of(None, IMAGES))
    block, rows, targets = model.blocks_[number - 1], [], []
    for images, truth in stream.subset(split.kept).blocks(50):
        responses = torch.nn.functional.conv2d(
            images.double(),
            block.filters.double(),
            block.thresholds.double(),
            block.geometry.stride,
            block.geometry.padding,
        ).relu()
        pooled = torch.nn.functional.adaptive_avg_pool2d(responses, block.geometry.cells)
        rows.append(pooled.flatten(2).transpose(1, 2).flatten(1))
        targets.append(truth)
    return torch.cat(rows).numpy(), torch.cat(targets).double().numpy()


@pytest.mark.parametrize("number", [1, 2])
def test_every_head_is_the_optimum_of_an_independent_minimiser(model, number):
    phi, targets = phi_of(model, number)
    block = model.blocks_[number - 1]
    n, k = targets.shape

    def objective(flat):
        weights, bias = flat[:-k].reshape(k, -1), flat[-k:]
        scores = phi @ weights.T + bias
        top = scores.max(1, keepdims=True)
        mass = np.exp(scores - top)
        value = (np.log(mass.sum(1)) + top[:, 0] - (scores * targets).sum(1)).mean()
        slope = (mass / mass.sum(1, keepdims=True) - targets) / n
        gradient = np.concatenate([(slope.T @ phi + block.beta * weights).ravel(), slope.sum(0)])
        return value + 0.5 * block.beta * np.square(weights).sum(), gradient

    found = np.concatenate([block.weights.double().numpy().ravel(), block.bias.double().numpy()])
    best = minimize(
        objective, found, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-13}
    )
    reached = objective(found)[0]
    assert best.fun <= reached <= best.fun * (1 + 1.1e-3)
    assert block.certificate.primal == pytest.approx(reached, rel=1e-5)
    assert block.certificate.dual <= best.fun * (1 + 1e-9)
    assert block.certificate.relative_gap <= 1e-3
    assert "these 6 neurons" in model.blocks_[0].certificate.scope


def test_certificates_can_be_computed_again(model):
    for one, other in zip(model.certify(IMAGES, LABELS), model.certificates_, strict=True):
        assert (one.program, one.scope) == (other.program, other.scope)
        assert one.primal == pytest.approx(other.primal, rel=1e-6)
        assert one.dual == pytest.approx(other.dual, rel=1e-6)


def test_no_head_is_worse_than_that_of_descent(model):
    for block in model.blocks_:
        descent = block.measures["descent"]
        assert descent["optimal_objective"] == pytest.approx(block.certificate.primal, rel=1e-5)
        assert descent["objective"] >= descent["optimal_objective"]
        assert 0 <= descent["accuracy"] <= 1


def test_scores_do_not_tell_left_from_right(model):
    np.testing.assert_allclose(model.scores(IMAGES), model.scores(IMAGES[..., ::-1]), atol=1e-4)
    assert not np.allclose(model.scores(IMAGES[:1]), model.scores(IMAGES[1:2]), atol=1e-2)
    one_way = stack(blocks=TINY_NEURONS, augment="crop").fit(IMAGES, LABELS)
    assert not np.allclose(one_way.scores(IMAGES), one_way.scores(IMAGES[..., ::-1]), atol=1e-2)


def test_training_scores_are_those_of_the_images(model):
    np.testing.assert_allclose(model.training_scores_, model.block_scores(IMAGES), atol=2e-3)
    assert model.score(IMAGES, LABELS) > 0.8


def test_training_twice_gives_the_same_bits(model):
    again = stack(blocks=TINY_NEURONS, augment="flip+crop").fit(IMAGES, LABELS)
    np.testing.assert_array_equal(again.scores(IMAGES), model.scores(IMAGES))


def neuron_lengths(v):
    """|v_i| over classes and cells of every neuron."""
    return np.linalg.norm(v, axis=(0, 1))


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize(
    ("regulariser", "length", "beta"),
    [("group", np.abs, 0.02), ("nuclear", neuron_lengths, 0.03)],
)
def test_norms_leave_neurons_out_exactly_where_their_slopes_allow(regulariser, length, beta, loss):
    """Phi' L = beta v / |v| for what is used, |Phi' L| <= beta for what is not, in float64."""
    blocks = [
        replace(block, regulariser=regulariser, loss=loss, tolerance=1e-5, betas=beta, n_gates=12)
        for block in TINY_NEURONS
    ]
    model, left_out = stack(blocks=blocks, augment="flip+crop").fit(IMAGES, LABELS), 0
    for number, block in enumerate(model.blocks_, 1):
        phi, targets = phi_of(model, number)
        weights = block.weights[..., 0].double().numpy()
        scores = phi @ weights.reshape(3, -1).T + block.bias.double().numpy()
        if loss == "cross_entropy":
            scores = np.exp(scores - scores.max(1, keepdims=True))
            scores /= scores.sum(1, keepdims=True)
        slopes = ((targets - scores).T @ phi / len(phi)).reshape(weights.shape)
        used = length(weights) > 1e-3 * length(weights).max()
        assert used.any()
        left_out += int((~used).sum())
        assert (length(slopes) <= block.beta * 1.02).all()
        np.testing.assert_allclose(length(slopes)[used], block.beta, rtol=0.02)
        assert 0 <= block.certificate.relative_gap <= 1e-5
        assert f"beta {regulariser}" in block.certificate.program
        descent = block.measures["descent"]
        assert descent["optimal_objective"] == pytest.approx(block.certificate.primal, rel=1e-5)
        assert descent["objective"] >= descent["optimal_objective"]
    assert left_out
    for one, other in zip(model.certify(IMAGES, LABELS), model.certificates_, strict=True):
        assert one.primal == pytest.approx(other.primal, rel=1e-6)


@pytest.mark.parametrize("gates", ["gaussian", "patches", "dual", "sgd"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_every_gate_strategy_and_loss(gates, loss):
    blocks = [replace(block, gates=gates, loss=loss) for block in TINY_NEURONS]
    model = stack(blocks=blocks).fit(IMAGES, LABELS)
    assert all(c.relative_gap <= 1e-3 for c in model.certificates_)
    assert ("descent" in model.blocks_[0].measures) == (gates == "sgd")
    assert model.measured_by == loss
    assert model.score(IMAGES, LABELS) > 0.6


def test_maps_are_rounded_responses(model):
    block = model.blocks_[0]
    images = next(model.scaled_blocks(IMAGES[:4]))
    responses = block.features.responses(images)
    assert (responses >= 0).all()
    torch.testing.assert_close(block.maps(images).float(), responses, rtol=1e-3, atol=1e-3)
    assert block.maps(images).dtype == torch.float16


def test_its_gates_are_its_filters_on_pixels_and_a_constant(model):
    block = model.blocks_[0]
    images = next(model.scaled_blocks(IMAGES[:4]))
    windows = torch.nn.functional.unfold(images, 3, padding=1, stride=2).transpose(1, 2)
    patches = block.transform(windows)
    found = (patches @ block.gates.T).relu().transpose(1, 2).reshape(4, 6, 4, 4)
    torch.testing.assert_close(found, block.features.responses(images), rtol=1e-4, atol=1e-4)


# The network that lends neurons


def network(n_neurons: int = 5) -> tuple[NeuronNetwork, NeuronDescent]:
    stream = stripe_stream(60, mirror=True)
    geometry = PatchGeometry((1, 8, 8), 3, 1, 1, 2)
    images, _ = stream.block(slice(None))
    transform = fit_triangular_whitening(images, geometry)
    found = NeuronNetwork(geometry, transform, n_neurons, 3, generator())
    return found, NeuronDescent(found, stream, generator())


def test_descent_learns_with_filters_of_unit_norm_in_white_coordinates():
    found, descent = network()
    events = []
    descent.run(60, events.append)
    torch.testing.assert_close(found.directions.norm(dim=1), torch.ones(5))
    assert events[-1]["step"] == events[-1]["steps"] == 60
    assert events[-1]["train_loss"] < events[0]["train_loss"]
    assert events[-1]["train_accuracy"] > 0.6


def test_its_head_gives_its_scores_on_pooled_responses():
    found, descent = network()
    descent.run(5)
    images = descent.stream.block(slice(0, 9))[0].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        scores = found.scores(images)
    filters, thresholds = (part.detach() for part in found.filters())
    responses = torch.nn.functional.conv2d(images, filters, thresholds, padding=1).relu()
    pooled = torch.nn.functional.adaptive_avg_pool2d(responses, 2).flatten(2).transpose(1, 2)
    weights, bias = found.frozen_head()
    expected = pooled.flatten(1) @ weights.flatten(1).T + bias
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_head_sees_features_of_mean_zero_and_spread_one():
    found, descent = network()
    images = descent.stream.block(slice(None))[0].contiguous(memory_format=torch.channels_last)
    found.standardise(images)
    found.head += torch.eye(3, found.head.shape[1])  # scores are the first three features
    with torch.no_grad():
        scores = found.scores(images)
    torch.testing.assert_close(scores.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    found.head.copy_(torch.ones_like(found.head))
    with torch.no_grad():
        assert float(found.scores(images).mean(0).abs().max()) < 1e-3
    every = torch.eye(found.head.shape[1])
    found.head, found.bias = every, torch.zeros(len(every))
    with torch.no_grad():
        spread = found.scores(images).square().mean().sqrt()
    assert float(spread) == pytest.approx(1, rel=1e-4)


def test_small_data_gets_more_epochs():
    _, descent = network()
    assert descent.default_steps() == 40 * descent.batches
    descent.batches = 10_000
    assert descent.default_steps() == 3 * 10_000


def test_the_rate_rises_and_then_falls_to_zero():
    factor = one_cycle(100)
    rates = [factor(step) for step in range(101)]
    assert max(rates) == 1
    assert rates.index(1) in (9, 10)
    assert rates[-1] == 0
    assert all(a < b for a, b in pairwise(rates[:10]))


def test_descent_uses_bfloat16_only_where_there_are_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert descent_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert descent_dtype("cpu") == torch.bfloat16


def test_responses_beyond_the_range_of_kept_maps_are_cut(model):
    """Pixels in other units than the model's give useless scores, and no NaN."""
    scores = model.scores(IMAGES.astype(np.float64) * 1e9)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("regulariser", ["l2", "group", "nuclear"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("memory_gb", [100.0, 0.0])
def test_heads_on_known_features_have_solvers_that_can(regulariser, loss, processes, memory_gb):
    """Where the usual one does not fit, or does not share images, another one that asks for Phi."""
    block = Block(n_gates=6, regulariser=regulariser, loss=loss)
    size = problem_size(block, block.geometry((1, 8, 8)), 10**5, 10, processes)
    least = min(
        needed_gb(name, size, solver_settings(block, 1.0).kind)
        for name in solvers_for(solver_settings(block, 1.0).kind, shared=processes > 1)
        if name in ON_KNOWN_FEATURES
    )
    solver, reason = block_solver(block, size, max(memory_gb, 1.01 * least))
    assert solver.name in ON_KNOWN_FEATURES
    assert solver.shares_images or processes == 1
    assert reason


def test_known_features_of_some_gates_are_their_columns():
    features = KnownFeatures((4, 6, 1))
    images = torch.randn(5, 24, 1, 1, generator=generator())
    kept = torch.tensor([4, 1, 2])
    some = features.restricted(kept)
    expected = images.view(5, 4, 6)[:, :, kept]
    torch.testing.assert_close(some(images).view(5, 4, 3), expected)
    again = some.restricted(torch.tensor([2, 0]))
    torch.testing.assert_close(again(images).view(5, 4, 2), expected[:, :, [2, 0]])
    assert again.shape == (4, 2, 1)
    assert again.double()(images).dtype == torch.float64


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_known_features_have_one_optimum_whoever_solves(regulariser):
    """A head with a norm in one process, and in a job, where ADMM cannot share the images."""
    images = torch.randn(40, 24, 1, 1, generator=generator()).abs().numpy()
    labels = np.arange(40) % 3
    scaler = ImageScaler((0.0,) * 24, (1.0,) * 24)
    stream, features = ImageStream(images, labels, 3, scaler), KnownFeatures((4, 6, 1))
    kind = ProgramKind("gated", regulariser, "cross_entropy")
    found = [
        solver.prepare(kind, features, [stream])(0.01, None).history[-1]["primal"]
        for solver in (ADMM(1e-4), Fista(1e-4))
    ]
    assert found[0] == pytest.approx(found[1], rel=3e-4)
