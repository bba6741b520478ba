"""The parts of the interior-point method: exact directions, corrections, starts and tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convexcnn.programs.program import Program
from convexcnn.solvers.cones import rows as cone_rows
from convexcnn.solvers.interior.block_system import Features
from convexcnn.solvers.interior.conic_program import ConicProgram, Point
from convexcnn.solvers.interior.newton_direction import Newton
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.linear_algebra import second_order_cone as soc
from convexcnn.solvers.optimum import Status
from cvxpy_oracle import tiny_program
from small import generator


def one_patch(loss: str = "squared", pooling: str = "average") -> Program:
    """A program whose cells have one patch."""
    program = tiny_program("relu", loss=loss, pooling=pooling)
    return replace(program, patches=program.patches[:, :, :1].contiguous())


def start(program: Program, *, rounded: bool) -> tuple[Newton, Point]:
    problem = ConicProgram(program)
    point = problem.start()
    return Newton(problem, point, problem.scores(point), rounded=rounded), point


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("regulariser", ["group", "l2"])
def test_a_rounded_direction_is_polished_to_the_exact_one(loss: str, regulariser: str) -> None:
    program = tiny_program("relu", regulariser, loss)
    directions = []
    for rounded in (True, False):
        newton, point = start(program, rounded=rounded)
        direction = newton.direction(0.1 * point.complementarity())
        directions.append(newton.polished(direction, 1e-8))
    assert directions[0] is not None
    assert directions[1] is not None
    for name in ("weights", "bias", "slack", "multipliers"):
        left, right = (getattr(direction, name) for direction in directions)
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_a_rounded_factor_says_when_it_is_not_enough() -> None:
    newton, point = start(tiny_program("relu"), rounded=True)
    assert newton.polished(newton.direction(0.1 * point.complementarity()), 1e-30) is None
    newton, point = start(tiny_program("relu"), rounded=False)
    assert newton.polished(newton.direction(0.1 * point.complementarity()), 1e-30) is not None


def test_a_correction_leaves_the_residual_as_it_was() -> None:
    newton, point = start(tiny_program("relu"), rounded=False)
    target = 0.1 * point.complementarity()
    direction = newton.direction(target)
    corrected = direction.moved(0.5, newton.correction(direction, target))
    for candidate in (direction, corrected):
        remaining = newton._remaining(candidate)
        assert all(float(part.abs().max()) < 1e-8 for part in remaining[1:])


def test_steps_with_weights_are_those_of_the_moved_direction() -> None:
    newton, point = start(tiny_program("relu"), rounded=False)
    target = 0.1 * point.complementarity()
    direction = newton.direction(target)
    correction = newton.correction(direction, target)
    steps = point.longest_steps(direction, correction, (0.25, 1.0))
    for weight, step in zip((0.25, 1.0), steps, strict=True):
        moved = direction.moved(weight, correction)
        assert step == pytest.approx(point.longest_step(moved))
        near = point.moved(0.999 * step, moved)
        assert float(near.slack.min()) > 0
        assert float(near.multipliers.min()) > 0
        assert float(soc.determinant(near.cone).min()) > 0


def test_clamped_points_have_clamped_eigenvalues() -> None:
    points = torch.randn(50, 4, generator=generator(1), dtype=torch.float64)
    clamped = soc.clamp(points, 0.2, 0.9)
    norms, after = points[:, 1:].norm(dim=1), clamped[:, 1:].norm(dim=1)
    for sign in (-1, 1):
        expected = (points[:, 0] + sign * norms).clamp(0.2, 0.9)
        torch.testing.assert_close(clamped[:, 0] + sign * after, expected)
    untouched = torch.tensor([[0.5, 0.1, 0.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(soc.clamp(untouched, 0.2, 0.9), untouched)


@pytest.mark.parametrize("elements", [2**24, 60])
@pytest.mark.parametrize("cells", [1, 4])
def test_the_gram_of_rows_is_its_definition(
    elements: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cone_rows, "OUTER_ELEMENTS", elements)
    program = tiny_program("relu", cells=cells)
    rows = cone_rows.ConeRows(program)
    c = program.inequalities.rows(slice(None))  # (cells, g, m, d)
    scales = torch.rand(2, 2, *c.shape[:3], generator=generator(2), dtype=torch.float64)
    expected = torch.einsum("skcgm,cgmd,cgme->skcgde", scales, c, c).flatten(2, 3)
    for _ in range(2):  # the second time from the table
        torch.testing.assert_close(rows.gram(scales), expected)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_centres_are_inside_the_cones_and_further_from_their_walls(pooling: str) -> None:
    program = tiny_program("relu", cells=4, pooling=pooling)
    rows = cone_rows.ConeRows(program)
    centres = rows.centres(program.gates)
    gates = program.gates / program.gates.norm(dim=1, keepdim=True)
    at_gates = rows.responses(gates.repeat(4, 1)[None, None])
    at_centres = rows.responses(centres)
    assert float(at_centres.min()) > 0
    assert bool((at_centres.log().sum(-1) > at_gates.log().sum(-1) - 1e-9).all())


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_one_patch_per_cell_gives_the_same_products(pooling: str) -> None:
    program = one_patch(pooling=pooling)
    features = Features(program)
    weights = torch.randn(2, 2, *features.values.shape[1:], generator=generator(3)).double()
    scores = torch.randn(len(program.targets), 2, generator=generator(4)).double()
    phi = features.values.flatten(1)
    linear = (weights[0] - weights[1]).flatten(1)
    torch.testing.assert_close(features.scores(weights), phi @ linear.T)
    pulled = (scores.T @ phi).view(weights.shape[1:])
    torch.testing.assert_close(features.pull(scores, 2), torch.stack([pulled, -pulled]))


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_few_steps_are_enough(loss: str) -> None:
    for program in (tiny_program("relu", loss=loss), one_patch(loss)):
        optimum = InteriorPoint(1e-7).solve(program)
        assert optimum.status is Status.OPTIMAL
        assert len(optimum.history) <= 25
