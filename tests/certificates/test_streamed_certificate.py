"""The certificate bounds the distance from the optimum, and vanishes there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from convexcnn import reference
from convexcnn.certificates.certificate import (
    Certificate,
    GatedBlock,
    feature_rows,
    gated_features,
    require_same_bits,
)
from convexcnn.certificates.dual_bound import certify_gated
from convexcnn.errors import RunError, SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.stream import ImageStream
from small import generator, one_hot, random_images, stripe_stream

BETA, GATES, K = 0.02, 3, 3
GEOMETRY = PatchGeometry((1, 8, 8), 3, stride=2, padding=1, cells=2)


def make_block(beta: float = BETA, pool: str = "average") -> GatedBlock:
    """Random gates with thresholds, on a basis of affine coordinates, with zero weights."""
    source = generator(1)
    side, dim = GEOMETRY.filter_size, 4

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    return GatedBlock(
        gates=random(GATES, 1, side, side),
        gate_bias=random(GATES),
        gate_vectors=torch.zeros(GATES, dim, dtype=torch.float64),
        basis=random(dim, 1, side, side),
        basis_bias=random(dim),
        stride=GEOMETRY.stride,
        padding=GEOMETRY.padding,
        cells=GEOMETRY.cells,
        weights=torch.zeros(K, GEOMETRY.n_cells, GATES, dim, dtype=torch.float64),
        bias=torch.zeros(K, dtype=torch.float64),
        beta=beta,
        pool=pool,
    )


def certify_ridge(block: GatedBlock, stream: ImageStream, **settings) -> Certificate:
    """The certificate of squared loss with l2."""
    rows = feature_rows(block, stream, **settings)
    return certify_gated(
        rows, block.weights, block.bias, beta=block.beta, loss="squared", regulariser="l2"
    ).certificate


def loops(block: GatedBlock, images) -> np.ndarray:
    """Phi of a block by the reference: gates and basis see the raw patch and a constant 1."""
    raw = reference.patches(images, GEOMETRY.filter_size, GEOMETRY.stride, GEOMETRY.padding)
    x = np.concatenate([raw, np.ones((*raw.shape[:-1], 1))], axis=-1)
    gates = np.column_stack([block.gates.flatten(1), block.gate_bias])
    basis = np.column_stack([block.basis.flatten(1), block.basis_bias])
    features = {"average": reference.gated_features, "max": reference.max_gated_features}
    phi = features[block.pool](x, gates, GEOMETRY.cells)
    return (phi @ basis.T).reshape(len(raw), -1)


def in_float64(stream: ImageStream) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a stream: images and one-hot targets."""
    images, targets = zip(*stream.blocks(1000), strict=True)
    return torch.cat(images).double().numpy(), torch.cat(targets).double().numpy()


def at(block: GatedBlock, weights, bias) -> GatedBlock:
    shaped = torch.as_tensor(np.asarray(weights)).reshape(block.weights.shape)
    return replace(block, weights=shaped, bias=torch.as_tensor(np.asarray(bias)))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "mirrored"])
def problem(request):
    """A stream, its Phi and targets, and the dense optimum over the block's gates."""
    stream = stripe_stream(n=12, mirror=request.param)
    images, targets = in_float64(stream)
    block = make_block()
    phi = loops(block, images)
    weights, bias = reference.ridge_optimum(phi, targets, BETA)
    optimum = reference.gated_objective(phi, weights, bias, targets, BETA)
    return stream, block, phi, targets, weights, bias, optimum


@pytest.mark.parametrize("pool", ["average", "max"])
def test_features_by_convolutions_are_those_of_the_loops(pool):
    images, block = random_images(4, GEOMETRY.image_shape), make_block(pool=pool)
    np.testing.assert_allclose(gated_features(block, images), loops(block, images), atol=1e-12)


def test_there_is_no_gap_at_the_optimum(problem):
    stream, block, _, _, weights, bias, optimum = problem
    certificate = certify_ridge(at(block, weights, bias), stream)
    assert certificate.primal == pytest.approx(optimum, rel=1e-12)
    assert abs(certificate.gap) < 1e-12 * optimum
    assert certificate.relative_gap == certificate.gap / certificate.primal
    assert certificate.dtype == "float64"
    assert f"these {GATES} gates" in certificate.scope


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_dual_and_primal_enclose_the_optimum(problem, distance):
    stream, block, phi, targets, weights, bias, optimum = problem
    rng = np.random.default_rng(3)
    for _ in range(3):
        moved = weights + distance * rng.standard_normal(weights.shape)
        shifted = bias + distance * rng.standard_normal(bias.shape)
        certificate = certify_ridge(at(block, moved, shifted), stream)
        expected = reference.gated_objective(phi, moved, shifted, targets, BETA)
        assert certificate.primal == pytest.approx(expected, rel=1e-12)
        assert certificate.dual <= optimum * (1 + 1e-12)
        assert optimum <= certificate.primal * (1 + 1e-12)
        assert certificate.gap == pytest.approx(certificate.primal - certificate.dual, abs=1e-15)


def test_the_gap_shrinks_with_the_square_of_the_distance(problem):
    stream, block, _, _, weights, bias, _ = problem
    direction = np.random.default_rng(4).standard_normal(weights.shape)
    gaps = [
        certify_ridge(at(block, weights + step * direction, bias), stream).gap
        for step in (1e-5, 1e-6, 1e-7)
    ]
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 100, rtol=0.1)


@pytest.mark.parametrize("distance", [0.0, 0.1, 3.0])
def test_no_other_multiple_of_the_residual_proves_more(problem, distance):
    stream, block, phi, targets, weights, bias, _ = problem
    moved = weights + distance * np.random.default_rng(5).standard_normal(weights.shape)
    residual = targets - phi @ moved.T - bias
    certificate = certify_ridge(at(block, moved, bias), stream)
    bounds = [
        reference.ridge_bound(phi, targets, BETA, scale * residual)
        for scale in np.linspace(-1, 2, 301)
    ]
    assert max(bounds) <= certificate.dual + 1e-12
    assert max(bounds) == pytest.approx(certificate.dual, rel=2e-2, abs=1e-3)


def test_zero_weights_are_certified_too(problem):
    stream, block, _, _, _, _, optimum = problem
    certificate = certify_ridge(block, stream)
    assert certificate.primal == pytest.approx(0.5)
    assert 0 < certificate.dual <= optimum


@pytest.mark.parametrize("chunk", [2, 5, 100])
def test_blocks_of_any_size_give_one_certificate_and_progress(problem, chunk):
    stream, block, _, _, weights, bias, _ = problem
    progress: list[int] = []
    found = certify_ridge(at(block, weights, bias), stream, chunk=chunk, progress=progress.append)
    whole = certify_ridge(at(block, weights, bias), stream)
    assert found.primal == pytest.approx(whole.primal, rel=1e-13)
    assert found.dual == pytest.approx(whole.dual, rel=1e-13)
    assert progress[-1] == len(stream)
    assert progress == sorted(progress)


def test_float32_weights_are_judged_in_float64(problem):
    stream, block, _, _, weights, bias, optimum = problem
    exact = at(block, weights, bias)
    single = replace(exact, weights=exact.weights.float(), bias=exact.bias.float())
    certificate = certify_ridge(single, stream)
    assert 0 <= certificate.gap < 1e-8 * optimum


def test_a_certificate_can_be_written_as_json(problem):
    stream, block, *_ = problem
    certificate = certify_ridge(block, stream)
    fields = json.loads(json.dumps(certificate.to_dict()))
    assert set(fields) == {
        "program",
        "scope",
        "primal",
        "dual",
        "gap",
        "relative_gap",
        "dtype",
    }
    assert fields["primal"] == certificate.primal


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_without_a_regulariser_there_is_no_certificate(problem, beta):
    stream, *_ = problem
    with pytest.raises(SettingError, match="a certificate needs beta > 0"):
        certify_ridge(make_block(beta), stream)


def test_one_hot_targets_are_as_the_stream_gives_them(problem):
    stream, _, _, targets, *_ = problem
    expected = one_hot(stream.labels, K).repeat(1 + stream.mirror, axis=0)
    np.testing.assert_array_equal(targets, expected)


def test_features_that_change_are_not_certified():
    count = iter(range(2))
    with pytest.raises(RunError, match="two different feature vectors"):
        require_same_bits(lambda: torch.full((2, 2), float(next(count))))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("regulariser", ["l2", "group", "nuclear"])
def test_one_pass_finds_the_slopes_of_its_dual_point(problem, regulariser, loss, intercept):
    """Every kind: what is summed in one pass equals Phi' L at the end."""
    _, block, phi, targets, weights, bias, _ = problem
    moved = torch.as_tensor(weights).reshape(block.weights.shape) + 0.1
    shift = torch.as_tensor(bias) * intercept
    phi, targets = torch.as_tensor(phi), torch.as_tensor(targets)
    found = certify_gated(
        zip(phi.split(5), targets.split(5), strict=True),
        moved,
        shift,
        beta=BETA,
        loss=loss,
        regulariser=regulariser,
        intercept=intercept,
    )
    expected = (found.dual_point.T @ phi).view_as(moved) / len(phi)
    torch.testing.assert_close(found.slopes, expected, rtol=0, atol=1e-12)
    if intercept:
        torch.testing.assert_close(found.dual_point.sum(0), torch.zeros(K).double())
    if loss == "cross_entropy":
        assert ((targets - found.dual_point) > -1e-12).all()
    assert found.certificate.dual <= found.certificate.primal
