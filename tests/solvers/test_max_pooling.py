"""Max pooling: every program is solved to clarabel's optimum, certified, and made a network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from convexcnn.certificates.certify import ConeCertificate, certify
from convexcnn.certificates.cone_projection import cones_of
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.cones import cone_decomposition
from convexcnn.programs.gated import PenalisedConeProgram
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.neurons import decomposed_neurons, factored_neurons, relu_neurons
from convexcnn.programs.program import Program
from convexcnn.solvers.admm import ADMM
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.kernel import Kernel
from convexcnn.solvers.matrix_free import MatrixFree
from convexcnn.solvers.multiple_kernel import MultipleKernel
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.registry import BETA_SOLVERS
from convexcnn.solvers.warm_path import WarmPath
from cvxpy_oracle import oracle_feature, oracle_optimum, oracle_rows, tiny_program
from small import generator, relative_violation, stripe_stream

LOSSES = ("squared", "cross_entropy")
PROGRAMS = [
    *itertools.product(["gated"], ["l2", "group", "nuclear"], LOSSES, [1, 4], [True, False]),
    *itertools.product(["relu"], ["l2", "group"], LOSSES, [1, 4], [True, False]),
]
LIMITS = {"fista": {"max_iterations": 50000}}


def max_program(choice: tuple[Any, ...]) -> Program:
    return tiny_program(*choice[:3], cells=choice[3], intercept=choice[4], pooling="max")


@pytest.mark.parametrize("choice", PROGRAMS, ids=lambda c: "-".join(map(str, c)))
def test_every_solver_finds_the_optimum_of_the_oracle(choice: tuple[Any, ...]) -> None:
    program = max_program(choice)
    expected = oracle_optimum(program)
    able = [cls for cls in BETA_SOLVERS.values() if cls().handles(program.kind)]
    in_memory: list[Any] = [cls for cls in able if hasattr(cls, "solve")]
    assert in_memory
    for solver in in_memory:
        optimum = solver(1e-7, **LIMITS.get(solver.name, {})).solve(program)
        assert optimum.status is Status.OPTIMAL
        found = program.objective(optimum.weights, optimum.bias)
        assert found == pytest.approx(expected, rel=1e-6)
        bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
        assert -1e-12 <= bound.relative_gap <= 1e-6
        assert bound.dual <= expected * (1 + 1e-8)
        if isinstance(bound, ConeCertificate):
            assert bound.violation == 0


@pytest.mark.parametrize("cells", [1, 4])
@pytest.mark.parametrize("formulation", ["gated", "relu"])
def test_certificates_of_any_weights_bracket_the_optimum(formulation: str, cells: int) -> None:
    program = tiny_program(formulation, cells=cells, pooling="max")
    expected = oracle_optimum(program)
    shape = program.shape if formulation == "gated" else (2, *program.shape)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        bound = certify(program, 10.0 ** (seed % 4 - 3) * weights, torch.zeros(2).double())
        assert bound.dual <= expected * (1 + 1e-8)
        assert bound.primal >= expected * (1 - 1e-8)


@pytest.mark.parametrize("cells", [1, 4])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_inequalities_and_features_are_those_of_their_definition(cells: int, pooling: str) -> None:
    program = tiny_program("relu", cells=cells, pooling=pooling)
    inequalities, cones = program.inequalities, cones_of(program)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 2, *program.shape[1:], generator=generator, dtype=torch.float64)
    responses = inequalities.responses(weights)
    torch.testing.assert_close(cones.responses(weights), responses)
    mu = torch.randn(responses.shape, generator=generator, dtype=torch.float64)
    mu = mu * ~inequalities.empty
    torch.testing.assert_close((responses * mu).sum(), (weights * inequalities.pull(mu)).sum())
    torch.testing.assert_close(cones.pull(mu), inequalities.pull(mu))
    rows = inequalities.rows(slice(None))
    torch.testing.assert_close(torch.einsum("skcgd,cgmd->skcgm", weights, rows), responses)
    features = program.features.view(len(program.targets), *program.shape[1:])
    for cell, gate in itertools.product(range(cells), range(3)):
        a = program.gates[gate].numpy()
        for image, patches in enumerate(program.patches[:, cell].numpy()):
            expected = oracle_feature(patches, a, pooling)
            np.testing.assert_allclose(features[image, cell, gate], expected)
        wanted = [oracle_rows(x, a, pooling) for x in program.patches[:, cell].numpy()]
        got = rows[cell, gate][~inequalities.empty.expand(cells, 3, -1)[cell, gate]].numpy()
        expected = np.concatenate(wanted)
        expected = expected[expected.any(1)]
        order = [np.lexsort(table.round(12).T) for table in (got, expected)]
        np.testing.assert_allclose(got[order[0]], expected[order[1]], atol=1e-12)


def test_patches_that_are_the_same_constrain_nothing() -> None:
    program = tiny_program("relu", pooling="max")
    program.patches[:, :, 1] = program.patches[:, :, 0] * (1 + 1e-8)
    optimum = InteriorPoint(1e-7).solve(program)
    assert optimum.status is Status.OPTIMAL
    bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
    assert bound.relative_gap <= 1e-6
    neurons = relu_neurons(optimum.weights, optimum.bias, "max")
    assert neurons.objective(program) == pytest.approx(bound.primal, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cells", [1, 4])
def test_the_relu_network_has_the_objective_of_its_program(loss: str, cells: int) -> None:
    program = tiny_program("relu", loss=loss, cells=cells, pooling="max")
    optimum = InteriorPoint(1e-8).solve(program)
    neurons = relu_neurons(optimum.weights, optimum.bias, "max")
    assert neurons.objective(program) == pytest.approx(optimum.history[-1]["primal"], rel=1e-7)


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_gated_networks_become_relu_networks_with_the_same_scores(regulariser: str) -> None:
    program = tiny_program(regulariser=regulariser, cells=4, pooling="max")
    optimum = Fista(1e-7).solve(program)
    convert = factored_neurons if regulariser == "nuclear" else decomposed_neurons
    data = torch.split(program.patches, 5), program.gates
    neurons = convert(*data, optimum.weights, optimum.bias, "max")
    scores = program.scores(optimum.weights, optimum.bias)
    torch.testing.assert_close(neurons.scores(program.patches), scores, rtol=0, atol=1e-7)
    assert relative_violation(program, cone_decomposition(*data, optimum.weights, "max")) < 1e-15


def test_programs_without_an_exact_max_are_refused() -> None:
    kind = ProgramKind("relu", "group", pooling="max")
    for name, cls in BETA_SOLVERS.items():
        if not cls().handles(kind):
            with pytest.raises(SettingError, match=r"interior-point") as error:
                cls().check(kind)
            assert name in str(error.value)
            assert "pooling max" in str(error.value)
    with pytest.raises(SettingError, match="average, max"):
        ProgramKind(pooling="median")
    with pytest.raises(SettingError, match="interior-point"):
        MultipleKernel().solve(tiny_program("relu", pooling="max"))


STREAM = stripe_stream(24)
GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2, cells=2)


def max_features() -> GatedFeatures:
    transform = fit_whitening(STREAM.block(slice(None))[0], GEOMETRY, 4)
    gates = torch.randn(3, transform.dim, generator=generator(4))
    return GatedFeatures(GEOMETRY, transform, gates, "max")


@pytest.mark.parametrize("solver", [Direct, Kernel, MatrixFree])
def test_ridge_solvers_take_features_of_max_pooling(solver: Any) -> None:
    features = max_features()
    kind = ProgramKind("gated", "l2", pooling="max")
    solution = solver([0.02], tolerance=1e-6).solve(features, STREAM)
    program = Program.from_streams(kind, features, [STREAM], 0.02)
    weights = solution.weights.double().view(program.shape)
    bound = certify(program, weights, solution.bias.double())
    assert bound.relative_gap <= 1e-4


@pytest.mark.parametrize("regulariser", ["l2", "group", "nuclear"])
@pytest.mark.parametrize("loss", LOSSES)
def test_streaming_solvers_take_features_of_max_pooling(regulariser: str, loss: str) -> None:
    features, beta = max_features(), 0.02
    kind = ProgramKind("gated", regulariser, loss, pooling="max")
    optimum = ADMM(1e-3).prepare(kind, features, [STREAM])(beta, None)
    program = Program.from_streams(kind, features, [STREAM], beta)
    bound = certify(program, optimum.weights.double(), optimum.bias.double())
    assert optimum.status is Status.OPTIMAL
    assert bound.relative_gap <= 1.1e-3


@pytest.mark.parametrize("formulation", ["gated", "relu"])
def test_a_path_is_walked_and_held_out_images_are_pooled_alike(formulation: str) -> None:
    features, validation = max_features(), stripe_stream(9, seed=5)
    kind = ProgramKind(formulation, "group", pooling="max")
    path = WarmPath(InteriorPoint(1e-6), kind, [0.1])
    held_out = path.solve(features, STREAM, validation).held_out_scores
    assert held_out is not None
    optimum = path.solve(features, STREAM)
    weights, bias = optimum.weights, optimum.bias
    program = Program.from_streams(kind, features, [validation], 0.1)
    if formulation == "gated":
        expected = program.scores(weights, bias)
    else:
        expected = relu_neurons(weights, bias, "max").scores(program.patches)
    torch.testing.assert_close(held_out.double(), expected, rtol=1e-4, atol=1e-4)


def test_penalised_cones_are_those_of_averages() -> None:
    with pytest.raises(SettingError, match="interior-point"):
        PenalisedConeProgram(max_features(), 3, get_loss("squared"))
