"""Block programs: values and gradients without a tape agree with torch's tape and with loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from convexcnn import reference
from convexcnn.patches import operator
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.programs import relu_cnn
from convexcnn.programs.block import BatchStatistics, BlockProgram
from convexcnn.programs.gated import GatedProgram, PenalisedConeProgram
from convexcnn.programs.losses import LOSSES, Loss, get_loss
from convexcnn.programs.relu_cnn import ReluProgram
from small import (
    GEOMETRIES,
    generator,
    make_features,
    make_transform,
    random_images,
    reference_patches,
    reference_phi,
)

N, K, BETA, RHO = 10, 3, 0.3, 0.7
FORMULATIONS = ("gated", "relu-penalised", "non-convex")
CASES = [
    ("one cell", "raw"),
    ("stride", "whitened"),
    ("overlapping cells", "raw with constant"),
    ("ragged cells", "whitened"),
]

EVERY_PROGRAM = pytest.mark.parametrize("formulation", FORMULATIONS)
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES)
EVERY_CASE = pytest.mark.parametrize(("name", "kind"), CASES)


def make_program(
    formulation: str,
    loss: str | Loss = "squared",
    name: str = "overlapping cells",
    kind: str = "whitened",
    beta: float = BETA,
    rho: float = RHO,
) -> BlockProgram:
    """A float64 program at a random point."""
    geometry = GEOMETRIES[name]
    loss = get_loss(loss) if isinstance(loss, str) else loss
    program: BlockProgram
    if formulation == "non-convex":
        transform = make_transform(kind, geometry)
        program = ReluProgram(geometry, transform, 5, K, loss, beta=beta)
        names = ("filters", "head", "bias")
    elif formulation == "gated":
        program = GatedProgram(make_features(geometry, kind), K, loss, beta=beta)
        names = ("weights", "bias")
    else:
        features = make_features(geometry, kind)
        program = PenalisedConeProgram(features, K, loss, beta=beta, rho=rho)
        names = ("weights",)
    source = generator(11)
    for attribute in names:
        shape = getattr(program, attribute).shape
        setattr(program, attribute, torch.randn(shape, generator=source, dtype=torch.float64))
    return program


def make_batch(geometry: PatchGeometry, n: int = N) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % K
    return random_images(n, geometry.image_shape), torch.eye(K, dtype=torch.float64)[labels]


def geometry_of(program: BlockProgram) -> PatchGeometry:
    if isinstance(program, ReluProgram):
        return program.geometry
    assert isinstance(program, (GatedProgram, PenalisedConeProgram))
    return program.features.geometry


def gradients(program: BlockProgram, images: Tensor, targets: Tensor) -> list[Tensor]:
    """The gradients by which a solver would step, in the order of the parameters."""
    program.batch_gradient(images, targets, BatchStatistics())
    assert all(parameter.grad is not None for parameter in program.parameters)
    return [parameter.grad.clone() for parameter in program.parameters]  # type: ignore[union-attr]


# What each program minimises, in torch, from its documentation alone


def gated_objective(program: GatedProgram, images: Tensor, targets: Tensor) -> Tensor:
    phi = torch.from_numpy(reference_phi(images, program.features))
    scores = phi @ program.weights.T + program.bias
    fit = program.loss.value(scores, targets) / len(images)
    return fit + 0.5 * program.beta * program.weights.square().sum()


def penalised_objective(program: PenalisedConeProgram, images: Tensor, targets: Tensor) -> Tensor:
    features = program.features
    v, w = program.weights
    phi = torch.from_numpy(reference_phi(images, features))
    fit = program.loss.value(phi @ (v - w).T, targets) / len(images)
    ridge = 0.5 * program.beta * program.weights.square().sum()
    x = torch.from_numpy(reference_patches(images, features.geometry, features.transform))
    sign = torch.where(x @ features.gates.T >= 0, 1.0, -1.0)
    penalty = torch.zeros((), dtype=torch.float64)
    rows, columns = features.geometry.grid
    cells = reference.pooling_cells(rows, columns, features.geometry.cells)
    for cell, members in enumerate(cells):
        for weights in (v, w):
            part = weights.view(K, *features.shape)[:, cell]
            for row, column in members:
                inside = torch.einsum("nd,kgd->nkg", x[:, row, column], part)
                outside = -sign[:, row, column, None] * inside
                penalty = penalty + outside.clamp_min(0).sum() / len(members)
    return fit + ridge + program.rho * penalty / len(images)


def relu_objective(program: ReluProgram, images: Tensor, targets: Tensor) -> Tensor:
    geometry = program.geometry
    patches = program.transform(extract_patches(images, geometry))
    maps = (patches @ program.filters.T).relu().transpose(1, 2)
    pooled = adaptive_avg_pool2d(maps.unflatten(2, geometry.grid), geometry.cells)
    scores = pooled.flatten(2).transpose(1, 2).flatten(1) @ program.head.T + program.bias
    norms = program.filters.square().sum() + program.head.square().sum()
    return program.loss.value(scores, targets) / len(images) + 0.5 * program.beta * norms


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "gated": gated_objective,
    "relu-penalised": penalised_objective,
    "non-convex": relu_objective,
}


@EVERY_CASE
@EVERY_LOSS
@EVERY_PROGRAM
def test_gradients_are_those_of_autograd(formulation, loss, name, kind):
    program = make_program(formulation, loss, name, kind)
    images, targets = make_batch(GEOMETRIES[name])
    with torch.no_grad():
        found = gradients(program, images, targets)
    for parameter in program.parameters:
        parameter.requires_grad_()
    expected = torch.autograd.grad(
        OBJECTIVES[formulation](program, images, targets), program.parameters
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@EVERY_CASE
@EVERY_LOSS
@pytest.mark.parametrize("formulation", ["gated", "non-convex"])
def test_objectives_agree_with_the_reference(formulation, loss, name, kind):
    program = make_program(formulation, loss, name, kind)
    geometry = geometry_of(program)
    images, targets = make_batch(geometry, 4)
    program.zero_grad()
    summed, _ = program.add_gradient(images, targets, 1.0)
    found = float(summed) / len(images) + program.regularise()
    if isinstance(program, GatedProgram):
        phi = reference_phi(images, program.features)
        expected = reference.gated_objective(
            phi, program.weights, program.bias, targets, BETA, loss
        )
    else:
        x = reference_patches(images, geometry, program.transform)
        expected = reference.relu_objective(
            x,
            program.filters,
            program.head,
            program.bias,
            targets,
            BETA,
            cells=geometry.cells,
            loss=loss,
        )
    assert found == pytest.approx(expected, rel=1e-12)


@EVERY_CASE
def test_the_cone_penalty_agrees_with_the_reference(name, kind):
    program = make_program("relu-penalised", "squared", name, kind)
    features = program.features
    images, _ = make_batch(features.geometry, 4)
    found, _ = program.violation(images)
    x = reference_patches(images, features.geometry, features.transform)
    expected = sum(
        reference.cone_penalty(
            x, features.gates, weights.view(K, *features.shape), features.geometry.cells
        )
        for weights in program.weights
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_gates_lie_in_their_own_cones():
    program = make_program("relu-penalised")
    own = program.features.gates.expand(2, K, *program.features.shape)
    program.weights = own.reshape(2, K, -1).clone()
    images, _ = make_batch(program.features.geometry)
    value, gradient = program.violation(images)
    assert float(value) == 0
    assert not gradient.any()
    program.weights = -program.weights
    assert float(program.violation(images)[0]) > 0


@EVERY_PROGRAM
def test_scores_are_what_the_gradient_was_taken_at(formulation):
    program = make_program(formulation)
    images, targets = make_batch(geometry_of(program), 4)
    program.zero_grad()
    value, scores = program.add_gradient(images, targets, 0.1)
    torch.testing.assert_close(program.scores(images), scores)
    torch.testing.assert_close(value, program.loss.value(scores, targets))


class Inner(Loss):
    """<F, R>: the loss whose gradient is R, so that a program's gradient is Phi' R."""

    name = "inner"

    def value(self, scores, targets):
        return (scores * targets).sum()

    def gradient(self, scores, targets):
        return targets


@EVERY_CASE
@pytest.mark.parametrize("formulation", ["gated", "relu-penalised"])
def test_products_with_phi_are_adjoint(formulation, name, kind):
    """<Phi V, R> = <V, Phi' R>."""
    program = make_program(formulation, Inner(), name, kind, beta=0.0, rho=0.0)
    images, _ = make_batch(GEOMETRIES[name], 4)
    right = torch.randn(4, K, generator=generator(5), dtype=torch.float64)
    program.zero_grad()
    program.add_gradient(images, right, 1.0)
    forward = (program.scores(images) * right).sum()
    pulled_back = sum((p * p.grad).sum() for p in program.parameters)
    torch.testing.assert_close(forward, pulled_back)


@EVERY_PROGRAM
def test_gradients_and_statistics_do_not_depend_on_the_block_size(formulation, monkeypatch):
    images, targets = make_batch(GEOMETRIES["overlapping cells"])
    found = {}
    for size in (operator.CACHE_BYTES, 1):
        monkeypatch.setattr(operator, "CACHE_BYTES", size)
        monkeypatch.setattr(relu_cnn, "CACHE_BYTES", size)
        program = make_program(formulation)
        seen = BatchStatistics()
        program.batch_gradient(images, targets, seen)
        found[program.block_size] = [p.grad for p in program.parameters], seen
    assert len(found) == 2
    assert min(found) <= 4
    (whole, whole_seen), (parts, parts_seen) = found.values()
    torch.testing.assert_close(parts, whole)
    assert (whole_seen.images, whole_seen.correct) == (parts_seen.images, parts_seen.correct)
    assert whole_seen.loss == pytest.approx(parts_seen.loss, rel=1e-12)


@EVERY_PROGRAM
def test_the_same_batch_gives_the_same_bits_twice(formulation):
    program = make_program(formulation)
    images, targets = make_batch(geometry_of(program))
    first = gradients(program, images, targets)
    assert all(
        torch.equal(a, b) for a, b in zip(first, gradients(program, images, targets), strict=True)
    )


@EVERY_PROGRAM
def test_the_regulariser_is_beta_over_two_times_the_squared_norms(formulation):
    program = make_program(formulation)
    program.zero_grad()
    value = program.regularise()
    weighed = [p for p in program.parameters if p is not getattr(program, "bias", None)]
    assert value == pytest.approx(0.5 * BETA * sum(float(p.square().sum()) for p in weighed))
    for parameter in program.parameters:
        expected = BETA * parameter if any(parameter is p for p in weighed) else 0 * parameter
        torch.testing.assert_close(parameter.grad, expected)


@EVERY_PROGRAM
def test_without_beta_nothing_is_regularised(formulation):
    program = make_program(formulation, beta=0.0)
    program.zero_grad()
    assert program.regularise() == 0
    assert not any(p.grad.any() for p in program.parameters)


def test_a_new_network_depends_on_its_generator_only():
    def start(seed):
        geometry = GEOMETRIES["even cells"]
        transform = make_transform("raw", geometry)
        program = ReluProgram(
            geometry, transform, 6, K, get_loss("squared"), generator=generator(seed)
        )
        return program.parameters

    shapes = [tuple(p.shape) for p in start(0)]
    assert shapes == [(6, 16), (K, 4 * 6), (K,)]
    assert all(torch.equal(a, b) for a, b in zip(start(0), start(0), strict=True))
    assert not torch.equal(start(0)[0], start(1)[0])


@pytest.mark.parametrize("formulation", ["gated", "relu-penalised"])
def test_convex_programs_start_at_zero(formulation):
    features = make_features(GEOMETRIES["one cell"])
    cls = GatedProgram if formulation == "gated" else PenalisedConeProgram
    program = cls(features, K, get_loss("squared"))
    assert program.formulation == formulation
    assert not any(parameter.any() for parameter in program.parameters)


def test_batch_statistics_are_means_over_images():
    seen = BatchStatistics()
    scores = torch.tensor([[2.0, 1], [0, 1], [3, 4]])
    targets = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    seen.add(torch.tensor(6.0), scores, targets)
    seen.add(torch.tensor(2.0), scores[:1], targets[:1])
    assert seen.means() == {"loss": 2.0, "accuracy": 0.75}


def test_the_network_is_a_convolution():
    """On raw pixels (P) is Conv2d - ReLU - AdaptiveAvgPool2d - Linear of torch, as it says."""
    program = make_program("non-convex", name="ragged cells", kind="raw")
    geometry = program.geometry
    images, _ = make_batch(geometry, 4)
    side = geometry.filter_size
    conv = torch.nn.Conv2d(1, 5, side, geometry.stride, geometry.padding, bias=False).double()
    conv.weight.data = program.filters.view(5, 1, side, side)
    pool = torch.nn.AdaptiveAvgPool2d(geometry.cells)
    with torch.no_grad():
        pooled = pool(conv(images).relu()).flatten(2).transpose(1, 2).flatten(1)
    expected = pooled @ program.head.T + program.bias
    np.testing.assert_allclose(program.scores(images), expected, rtol=1e-10)
