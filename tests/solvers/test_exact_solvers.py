"""Every exact solver finds the ridge optimum of the reference, on every point of a path."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from convexcnn import reference
from convexcnn.certificates.block_certificate import certify_block
from convexcnn.certificates.certificate import GatedBlock
from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_whitening
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers import direct, kernel, matrix_free
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.interior_point import InteriorPoint
from convexcnn.solvers.kernel import Kernel
from convexcnn.solvers.linear_algebra import cholesky
from convexcnn.solvers.matrix_free import MatrixFree
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.path import DEFAULT_PATH, PATIENCE, scores_of, squared_measures
from convexcnn.solvers.registry import RIDGE_SOLVERS
from convexcnn.solvers.result import PathPoint, Solution, best_point
from convexcnn.solvers.ridge import coarse, nystrom, statistics
from convexcnn.solvers.warm_path import WarmPath
from small import generator, stripe_stream

GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2)
BETAS = [0.3, 0.003, 0.03]
N, HELD_OUT, K = 48, 18, 3

EVERY_SOLVER = pytest.mark.parametrize("solver", [Direct, Kernel, MatrixFree])
EVERY_STREAM = pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Problems of a few dozen rows go through every loop over blocks."""
    monkeypatch.setattr(cholesky, "BLOCK", 16)
    monkeypatch.setattr(statistics, "BAND", 8)
    monkeypatch.setattr(direct, "BAND", 8)


def make_problem(mirror: bool = False) -> tuple[GatedFeatures, ImageStream, ImageStream]:
    """Features, training images and held-out images."""
    stream = stripe_stream(N + HELD_OUT, mirror=mirror)
    images, _ = stream.block(slice(None))
    transform = fit_whitening(images, GEOMETRY, 6)
    features = GatedFeatures(GEOMETRY, transform, torch.randn(5, 7, generator=generator()))
    return features, stream.subset(slice(0, N)), stream.subset(slice(N, None))


def explicit(features: GatedFeatures, *streams: ImageStream) -> tuple[np.ndarray, np.ndarray]:
    blocks = [block for stream in streams for block in stream.blocks(1000)]
    phi = torch.cat([features(images) for images, _ in blocks])
    return phi.double().numpy(), torch.cat([y for _, y in blocks]).double().numpy()


def raw_block(features: GatedFeatures, solution: Solution) -> GatedBlock:
    """The trained block in raw pixels, as the certificate wants it."""
    return GatedBlock.of(features, solution.weights, solution.bias, solution.beta)


def assert_optimal(solution, phi, targets):
    """The solution has the optimal objective, and the scores of the reference optimum."""
    weights, bias = reference.ridge_optimum(phi, targets, solution.beta)
    best = reference.gated_objective(phi, weights, bias, targets, solution.beta)
    found = reference.gated_objective(phi, solution.weights, solution.bias, targets, solution.beta)
    assert best * (1 - 1e-12) <= found <= best * (1 + 1e-7)
    np.testing.assert_allclose(
        phi @ solution.weights.double().numpy().T + solution.bias.double().numpy(),
        phi @ weights.T + bias,
        atol=1e-3,
    )


@EVERY_STREAM
@EVERY_SOLVER
@pytest.mark.parametrize("beta", [1e-3, 0.03, 1.0])
@pytest.mark.parametrize("chunk", [8, 20, 2000])
def test_one_beta_gives_the_reference_optimum(solver, mirror, beta, chunk):
    features, train, _ = make_problem(mirror)
    solution = solver([beta], chunk=chunk).solve(features, train)
    assert solution.beta == beta
    assert solution.solver == solver.name
    assert solution.weights.shape == (K, features.n_features)
    assert solution.bias.shape == (K,)
    assert solution.relative_gap <= 1e-6
    assert solution.status is Status.OPTIMAL
    assert solution.held_out_scores is None
    assert_optimal(solution, *explicit(features, train))


@EVERY_STREAM
@EVERY_SOLVER
def test_a_path_is_solved_chosen_from_and_solved_again_on_all_rows(solver, mirror):
    features, train, held_out = make_problem(mirror)
    solution = solver(BETAS, chunk=20).solve(features, train, held_out)
    phi, targets = explicit(features, train)
    held_phi, held_targets = explicit(features, held_out.plain())
    assert [point.beta for point in solution.path] == BETAS
    for point in solution.path:
        weights, bias = reference.ridge_optimum(phi, targets, point.beta)
        loss = reference.squared_loss(phi @ weights.T + bias, targets)
        assert point.train["loss"] == pytest.approx(loss, rel=1e-3)
        scores = held_phi @ weights.T + bias
        accuracy = (scores.argmax(1) == held_targets.argmax(1)).mean()
        assert point.validation["loss"] == pytest.approx(
            reference.squared_loss(scores, held_targets), rel=1e-3
        )
        assert point.validation["accuracy"] == pytest.approx(accuracy)
    assert solution.beta == best_point(solution.path, len(held_out.labels)).beta
    assert_optimal(solution, *explicit(features, train, held_out))


def ridge_path(betas: list[float], **kwargs: bool) -> WarmPath:
    return WarmPath(InteriorPoint(1e-9), ProgramKind(), betas, **kwargs)


@EVERY_STREAM
@pytest.mark.parametrize("solver", [Direct, Kernel, MatrixFree, ridge_path])
def test_without_a_refit_held_out_images_only_choose(solver, mirror):
    features, train, held_out = make_problem(mirror)
    solution = solver(BETAS, refit=False).solve(features, train, held_out)
    assert solution.beta == solver(BETAS).solve(features, train, held_out).beta
    assert solution.held_out_scores.shape == (HELD_OUT, K)
    assert "refit" not in solution.seconds
    weights, bias = solution.weights.float().reshape(K, -1), solution.bias.float()
    flat = dataclasses.replace(solution, weights=weights, bias=bias)
    assert_optimal(flat, *explicit(features, train))
    again = scores_of(features, held_out, weights.T, bias)
    torch.testing.assert_close(solution.held_out_scores, again, rtol=1e-2, atol=3e-3)


@EVERY_STREAM
@EVERY_SOLVER
def test_held_out_scores_come_from_before_the_images_joined(solver, mirror):
    features, train, held_out = make_problem(mirror)
    solution = solver(BETAS, chunk=20).solve(features, train, held_out)
    phi, targets = explicit(features, train)
    held_phi, _ = explicit(features, held_out.plain())
    weights, bias = reference.ridge_optimum(phi, targets, solution.beta)
    assert solution.held_out_scores.shape == (HELD_OUT, K)
    np.testing.assert_allclose(solution.held_out_scores, held_phi @ weights.T + bias, atol=2e-3)


@EVERY_STREAM
@EVERY_SOLVER
def test_default_betas_are_multiples_of_the_mean_variance_of_a_feature(solver, mirror):
    """Whichever solver is taken, in however many processes: the program is the same one."""
    features, train, held_out = make_problem(mirror)
    solution = solver(None, chunk=20).solve(features, train, held_out)
    phi, _ = explicit(features, train)
    expected = phi.var(0).mean() * np.array(DEFAULT_PATH)
    betas = sorted(point.beta for point in solution.path)  # cg may end before the smallest
    np.testing.assert_allclose(betas, sorted(expected)[-len(betas) :], rtol=1e-5)


@EVERY_SOLVER
@pytest.mark.parametrize("offset", [-0.3, 0.0, 0.2])
def test_the_pilot_mean_is_for_rounding_only(solver, offset, monkeypatch):
    """Any shift of the features gives the same optimum; the mean only keeps float32 sums small."""

    def pilot(features, train):
        return torch.full((features.n_features,), offset)

    monkeypatch.setattr(direct, "pilot_mean", pilot)
    monkeypatch.setattr(kernel, "pilot_mean", pilot)
    monkeypatch.setattr(nystrom, "pilot_mean", pilot)
    monkeypatch.setattr(coarse, "pilot_mean", pilot)
    features, train, held_out = make_problem()
    solution = solver(BETAS, chunk=20).solve(features, train, held_out)
    assert_optimal(solution, *explicit(features, train, held_out))


@EVERY_STREAM
@EVERY_SOLVER
@pytest.mark.parametrize("beta", [1e-4, 0.03, 3.0])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-7])
def test_the_gap_is_no_smaller_than_what_the_certificate_finds(solver, mirror, beta, tolerance):
    features, train, _ = make_problem(mirror)
    solution = solver([beta], tolerance=tolerance).solve(features, train)
    proof = certify_block(raw_block(features, solution), train, ProgramKind()).certificate
    last = solution.history[-1]
    assert solution.relative_gap <= tolerance
    assert last["relative_gap"] == pytest.approx(solution.relative_gap, rel=1e-3, abs=1e-13)
    assert proof.primal == pytest.approx(last["primal"], rel=1e-9)
    assert proof.gap <= last["primal"] - last["dual"] + 1e-12


@pytest.mark.parametrize("other", [Kernel, MatrixFree])
@EVERY_STREAM
def test_solvers_agree(mirror, other):
    features, train, held_out = make_problem(mirror)
    one, other = (s(BETAS).solve(features, train, held_out) for s in (Direct, other))
    assert one.beta == other.beta
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(one.bias, other.bias, rtol=1e-2, atol=1e-3)
    for mine, theirs in zip(one.path, other.path, strict=True):
        assert mine.train["loss"] == pytest.approx(theirs.train["loss"], rel=1e-3)
        assert mine.validation["accuracy"] == theirs.validation["accuracy"]


@EVERY_SOLVER
def test_the_default_path_spans_four_decades_around_the_mean_variance(solver):
    features, train, held_out = make_problem()
    solution = solver().solve(features, train, held_out)
    phi, _ = explicit(features, train)
    betas = [point.beta for point in solution.path]
    expected = phi.var(0).mean() * np.array(DEFAULT_PATH)
    if solver is MatrixFree:  # which may end before the smallest
        expected = expected[-len(betas) :]
    np.testing.assert_allclose(betas, expected, rtol=1e-4)
    losses = [point.train["loss"] for point in solution.path]
    assert losses == sorted(losses)


@EVERY_SOLVER
def test_solving_twice_gives_the_same_bits(solver):
    features, train, held_out = make_problem()
    first, second = (solver(BETAS).solve(features, train, held_out) for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(first.bias, second.bias)


@pytest.mark.parametrize(
    ("solver", "phases"),
    [
        (Direct, ["statistics", "factorisation", "path", "validation", "refit", "refinement"]),
        (Kernel, ["kernel", "factorisation", "path", "refit", "refinement"]),
        (MatrixFree, ["sketch", "coarse start", "path", "refinement"]),
    ],
)
def test_every_phase_is_told_and_timed(solver, phases):
    features, train, held_out = make_problem()
    events = []
    solution = solver(BETAS).solve(features, train, held_out, events.append)
    passes = [event for event in events if event["phase"] == matrix_free.PASSES]
    events = [event for event in events if event not in passes]
    assert [event["phase"] for event in events] == list(solution.seconds) == phases
    assert [event["step"] for event in events] == list(range(1, len(phases) + 1))
    assert all(event["steps"] is None for event in events)
    times = [event["seconds"] for event in events]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(sum(solution.seconds.values()), abs=0.05)
    json.dumps(events)


def test_every_pass_is_told_with_the_training_loss():
    features, train, _ = make_problem()
    events = []
    MatrixFree([1e-3], rank=1, coarse=1).solve(features, train, None, events.append)
    passes = [event for event in events if event["phase"] == matrix_free.PASSES]
    assert [event["step"] for event in passes] == list(range(1, len(passes) + 1))
    assert all(event["unsolved"] == 1 and event["beta"] == 1e-3 for event in passes)
    losses = [event["loss"] for event in passes]
    assert losses[0] > losses[-1]
    json.dumps(events)


@EVERY_SOLVER
def test_an_interruption_from_the_callback_comes_through(solver):
    def interrupt(event):
        raise KeyboardInterrupt

    features, train, _ = make_problem()
    with pytest.raises(KeyboardInterrupt):
        solver([0.1]).solve(features, train, None, interrupt)


@pytest.mark.parametrize("rank", [1, 6, 1000])
@pytest.mark.parametrize("coarse", [1, 14, 1000])
def test_preconditioner_and_start_only_change_how_many_passes_it_takes(rank, coarse):
    features, train, held_out = make_problem()
    solution = MatrixFree(BETAS, rank=rank, coarse=coarse).solve(features, train, held_out)
    assert solution.status is Status.OPTIMAL
    assert_optimal(solution, *explicit(features, train, held_out))


def test_too_few_passes_are_told_with_the_gap_they_reached():
    features, train, _ = make_problem()
    solution = MatrixFree([1e-3], rank=1, coarse=1, max_iterations=2).solve(features, train)
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.relative_gap > 1e-6
    proof = certify_block(raw_block(features, solution), train, ProgramKind()).certificate
    assert proof.relative_gap <= solution.relative_gap
    assert len(solution.history) == 1


def test_a_default_path_ends_once_the_held_out_images_have_had_enough(monkeypatch):
    """Noise for labels: the largest betas are best, and small ones, the dear ones, are left out."""
    features, train, held_out = make_problem()
    shuffled = np.random.default_rng(0).permutation(train.labels)
    noise = dataclasses.replace(train, labels=shuffled)
    monkeypatch.setattr(matrix_free, "TOGETHER", 2)
    path = MatrixFree().solve(features, noise, held_out).path
    assert len(path) < len(DEFAULT_PATH)
    best = best_point(path, len(held_out.labels))
    assert path.index(best) >= PATIENCE
    assert path[-1].beta > path[0].beta


def test_betas_that_were_asked_for_are_all_solved_in_any_groups(monkeypatch):
    features, train, held_out = make_problem()
    whole = MatrixFree(BETAS).solve(features, train, held_out)
    monkeypatch.setattr(matrix_free, "TOGETHER", 1)
    single = MatrixFree(BETAS).solve(features, train, held_out)
    assert [point.beta for point in single.path] == BETAS
    assert single.beta == whole.beta
    torch.testing.assert_close(single.weights, whole.weights, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("setting", ["rank", "coarse"])
def test_a_preconditioner_or_start_of_nothing_is_refused(setting):
    with pytest.raises(SettingError, match=f"{setting} is 0; give at least 1"):
        MatrixFree([0.1], **{setting: 0})


def test_solvers_are_registered_by_name():
    assert {solver.name: solver for solver in (Direct, Kernel, MatrixFree)} == RIDGE_SOLVERS


def test_memory_grows_with_what_each_solver_keeps():
    """1,024 gates of 49 coordinates and 50,000 images: kernel 10 GB, Gram matrices 20 GB."""
    rows, size = 50_000, 1024 * 49
    assert 10 < kernel.needed_gb(rows, size, 10) < 12
    assert 20 < direct.needed_gb(rows, size, 10) < 22
    assert matrix_free.needed_gb(rows, size, 10) < 2
    assert direct.needed_gb(10**6, 5000, 10) < kernel.needed_gb(10**6, 5000, 10)


def path_point(beta: float, accuracy: float, loss: float) -> PathPoint:
    return PathPoint(beta, validation={"accuracy": accuracy, "loss": loss})


@pytest.mark.parametrize(
    ("accuracies", "losses", "held_out", "chosen"),
    [
        ([0.5, 0.7, 0.7, 0.6], [0, 0, 0, 0], 10**6, 1),
        ([0.5, 0.7, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2], 10**6, 2),
        ([0.83, 0.81, 0.85], [0.2, 0.1, 0.4], 48, 0),
        ([0.83, 0.81, 0.85], [0.2, 0.1, 0.4], 10, 1),
        ([0.83, 0.81, 0.85], [0.2, 0.1, 0.4], 1000, 2),
        ([0.83, 0.81, 0.85], [0.2, 0.21, 0.2015], 10, 2),
        ([0.9, 1.0], [0.1, 0.2], 10, 1),
        ([1.0, 1.0, 1.0], [1e-3, -1e-9, 1e-9], 10, 1),
    ],
    ids=[
        "ties",
        "loss of ties",
        "near",
        "all near",
        "none near",
        "same loss",
        "perfect",
        "rounding",
    ],
)
def test_the_smallest_loss_of_those_about_as_accurate_is_chosen(
    accuracies, losses, held_out, chosen
):
    points = map(path_point, (1.0, 0.3, 0.1, 0.01), accuracies, losses)
    path = list(points)
    assert best_point(path, held_out) is path[chosen]
    assert best_point(path[::-1], held_out) is path[chosen]


def test_measures_are_means_over_images():
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    targets = torch.eye(2)
    assert squared_measures(scores, targets) == {"loss": 0.5, "accuracy": 0.5}


def test_scores_leave_mirror_images_out():
    features, _, held_out = make_problem(mirror=True)
    weights = torch.randn(features.n_features, K, generator=generator(1))
    scores = scores_of(features, held_out, weights, torch.ones(K))
    phi = features(held_out.block(slice(None))[0])
    torch.testing.assert_close(scores, phi @ weights + 1)
