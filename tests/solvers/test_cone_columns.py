"""Column generation: exact projections, from blocks of patches, with walls it learns by need."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from convexcnn.certificates.certify import ConeCertificate, certify
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.program import Program
from convexcnn.solvers import cone_columns
from convexcnn.solvers.cone_columns import ConeColumns
from convexcnn.solvers.cones import patch_blocks
from convexcnn.solvers.cones.passes import ConePasses
from convexcnn.solvers.cones.patch_blocks import PatchBlocks
from convexcnn.solvers.cones.projection import Faces, project
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.optimum import Status
from small import generator, stripe_stream


def wide_program(n: int = 60, beta: float = 0.02, **settings: str) -> Program:
    """A program of n images with three patches of six numbers in each of two cells."""
    patches = torch.randn(n, 2, 3, 6, generator=generator(1), dtype=torch.float64) / 3
    gates = torch.randn(5, 6, generator=generator(2), dtype=torch.float64)
    labels = torch.randint(3, (n,), generator=generator(3))
    targets = torch.nn.functional.one_hot(labels, 3).double()
    return Program(patches, gates, targets, beta, formulation="relu", **settings)


@pytest.mark.parametrize("enough", [0.0, 2.0])
def test_projections_are_exact(enough: float) -> None:
    passes = ConePasses(PatchBlocks.from_program(wide_program()))
    walls, _ = passes.nearest_walls(1000)
    slopes = torch.randn(80, 6, generator=generator(4), dtype=torch.float64) * 3
    owner = torch.arange(10).repeat_interleave(8)
    faces = Faces.empty(80, 6)
    points = project(slopes, owner, walls, faces, enough)
    for job in range(80):
        rows = walls.rows[owner[job]].numpy()
        _, size = nnls(rows.T, -slopes[job].numpy())
        active = faces.active[job] >= 0
        mu = faces.multipliers[job, active].numpy()
        pushed = slopes[job].numpy() + rows[faces.active[job, active].numpy()].T @ mu
        assert (mu >= 0).all()
        np.testing.assert_allclose(pushed, points[job], atol=1e-12)
        if size > enough:
            assert points[job].norm() == pytest.approx(size, abs=1e-10)
            assert (rows @ points[job].numpy()).min() > -1e-11
        else:
            assert points[job].norm() <= enough + 1e-10
    # From where it ended, another projection of the same slopes does not get longer.
    again = project(slopes, owner, walls, faces, enough)
    assert (again.norm(dim=1) <= points.norm(dim=1) + 1e-12).all()


@pytest.mark.parametrize("regulariser", ["group", "l2"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_few_walls_grow_to_the_ones_that_matter(
    regulariser: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = wide_program(regulariser=regulariser, loss=loss)
    monkeypatch.setattr(cone_columns, "NEAREST_WALLS", 7)
    monkeypatch.setattr(patch_blocks, "BLOCK_ELEMENTS", 300)
    optimum = ConeColumns(1e-6).solve(program)
    assert optimum.status is Status.OPTIMAL
    bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
    assert isinstance(bound, ConeCertificate)
    assert bound.relative_gap <= 1.01e-6
    assert bound.violation <= 1e-15
    expected = InteriorPoint(1e-7).solve(program).history[-1]["primal"]
    assert bound.primal == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("kept", [0, 2**30])
def test_streams_give_the_program_in_memory(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_blocks, "KEPT_BYTES", kept)
    monkeypatch.setattr(patch_blocks, "BLOCK_ELEMENTS", 1000)
    stream = stripe_stream(24, 3, mirror=True, size=9)
    geometry = PatchGeometry((1, 9, 9), 3, stride=2, padding=1, cells=3)
    images = torch.from_numpy(stream.scaler.transform(stream.images))
    transform = fit_whitening(images, geometry, 5)
    features = GatedFeatures(geometry, transform, torch.randn(4, 6, generator=generator(5)))
    kind = ProgramKind("relu", "group")
    optimum = ConeColumns(1e-7).prepare(kind, features, [stream])(0.01, None)
    blocks = PatchBlocks.from_streams(features, [stream])
    patches = torch.cat([block for _, block in blocks])
    program = Program(patches, blocks.gates, blocks.targets, 0.01, formulation="relu")
    bound = certify(program, optimum.weights, optimum.bias, optimum.multipliers)
    assert optimum.status is Status.OPTIMAL
    assert bound.relative_gap <= 1.01e-7
    assert ConeColumns(1e-7).solve(program).history[-1]["primal"] == pytest.approx(bound.primal)


def test_a_path_starts_at_the_last_optimum() -> None:
    program = wide_program()
    solver = ConeColumns(1e-6)
    first = solver.solve(program)
    warm = solver.solve(program.at(0.015), first)
    cold = solver.solve(program.at(0.015))
    assert warm.history[-1]["primal"] == pytest.approx(cold.history[-1]["primal"], rel=2e-6)
    assert warm.history[0]["relative_gap"] < cold.history[0]["relative_gap"]
    assert len(solver.solve(program, first).history) <= 2


def test_a_patch_orthogonal_to_a_gate_is_refused() -> None:
    patches = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]], dtype=torch.float64)
    gates = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    targets = torch.ones(1, 1, dtype=torch.float64)
    program = Program(patches, gates, targets, 0.1, formulation="relu", intercept=False)
    passes = ConePasses(PatchBlocks.from_program(program))
    outside = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(SettingError, match="draw other gates"):
        passes.responses(outside, torch.tensor([0]))


def test_a_limit_on_rounds_is_reported() -> None:
    assert ConeColumns(1e-9, 1).solve(wide_program()).status is Status.ITERATION_LIMIT
