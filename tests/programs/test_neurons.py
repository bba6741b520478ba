"""Recovered networks compute what the convex programs promise, at the objective they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.data.preprocess import ImageScaler
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.neurons import decomposed_neurons, factored_neurons, relu_neurons
from convexcnn.programs.program import Program
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.multiple_kernel import MultipleKernel
from cvxpy_oracle import tiny_program


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("cells", [1, 4])
def test_relu_network_has_the_objective_of_its_program(loss: str, cells: int) -> None:
    program = tiny_program("relu", loss=loss, cells=cells)
    optimum = InteriorPoint(1e-8).solve(program)
    neurons = relu_neurons(optimum.weights, optimum.bias)
    assert neurons.objective(program) == pytest.approx(optimum.history[-1]["primal"], rel=1e-7)
    scores = program.scores(optimum.weights, optimum.bias)
    torch.testing.assert_close(neurons.scores(program.patches), scores, rtol=0, atol=1e-7)


def test_cone_decomposition_keeps_scores_and_costs_norm() -> None:
    program = tiny_program(cells=4)
    optimum = MultipleKernel(1e-8).solve(program)
    neurons = decomposed_neurons([program.patches], program.gates, optimum.weights, optimum.bias)
    scores = program.scores(optimum.weights, optimum.bias)
    torch.testing.assert_close(neurons.scores(program.patches), scores, rtol=0, atol=1e-7)
    assert neurons.objective(program) >= program.objective(optimum.weights, optimum.bias)


def test_factors_of_the_nuclear_norm_share_filters() -> None:
    program = tiny_program(regulariser="nuclear", cells=4, beta=0.05)
    optimum = Fista(1e-7).solve(program)
    neurons = factored_neurons([program.patches], program.gates, optimum.weights, optimum.bias)
    scores = program.scores(optimum.weights, optimum.bias)
    torch.testing.assert_close(neurons.scores(program.patches), scores, rtol=0, atol=1e-7)
    assert neurons.objective(program) >= program.objective(optimum.weights, optimum.bias)
    assert len(neurons.filters) <= 2 * 3 * 3  # at most d factors of every gate, two filters each


@pytest.fixture(scope="module", params=["average", "max"])
def images(request: pytest.FixtureRequest) -> tuple[GatedFeatures, ImageStream]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (24, 3, 9, 8), generator=generator).to(torch.uint8).numpy()
    stream = ImageStream(pixels, np.arange(24) % 3, 3, ImageScaler.fit(pixels))
    geometry = PatchGeometry((3, 9, 8), 3, 2, 1, cells=2)  # cells that overlap, and padding
    transform = fit_whitening(stream.block(slice(None))[0], geometry, 5)
    gates = torch.randn(4, transform.dim, generator=generator)
    return GatedFeatures(geometry, transform, gates, request.param), stream


@pytest.mark.parametrize("formulation", ["gated", "relu"])
def test_sequential_computes_the_scores_of_the_program(
    images: tuple[GatedFeatures, ImageStream], formulation: str
) -> None:
    features, stream = images
    kind = ProgramKind(formulation, "group", pooling=features.pool)
    program = Program.from_streams(kind, features, [stream], 0.01)
    if formulation == "relu":
        optimum = InteriorPoint(1e-6).solve(program)
        neurons = relu_neurons(optimum.weights, optimum.bias, features.pool)
    else:
        optimum = MultipleKernel(1e-6).solve(program)
        neurons = decomposed_neurons(
            [program.patches], program.gates, optimum.weights, optimum.bias, features.pool
        )
    network = neurons.to_sequential(features.geometry, features.transform)
    scaled, _ = stream.block(slice(None))
    with torch.no_grad():
        outputs = network.double()(scaled.double())  # patches were cut in float32
    scores = program.scores(optimum.weights, optimum.bias)
    # Responses of the two filters of a gate are far larger than what is left of them.
    torch.testing.assert_close(outputs, scores, rtol=0, atol=4e-4)


def test_features_in_memory_equal_the_operator(images: tuple[GatedFeatures, ImageStream]) -> None:
    features, stream = images
    kind = ProgramKind(regulariser="group", pooling=features.pool)
    program = Program.from_streams(kind, features, [stream], 0.01)
    phi = features(stream.block(slice(None))[0]).double()
    torch.testing.assert_close(program.features, phi, rtol=1e-5, atol=1e-6)


def test_features_that_pool_otherwise_are_refused(
    images: tuple[GatedFeatures, ImageStream],
) -> None:
    features, stream = images
    other = {"average": "max", "max": "average"}[features.pool]
    with pytest.raises(SettingError, match=f"pool='{other}'"):
        Program.from_streams(ProgramKind(pooling=other), features, [stream], 0.01)
