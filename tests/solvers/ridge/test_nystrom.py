"""The streamed covariance and its Nystrom approximation, against explicit matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_whitening
from convexcnn.solvers.ridge.nystrom import Covariance, Nystrom, sketch_moments
from small import generator, stripe_stream

GEOMETRY = PatchGeometry((1, 8, 8), 4, stride=2)
SIZE = 30

EVERY_STREAM = pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
EVERY_CHUNK = pytest.mark.parametrize("chunk", [2, 7, 1000])


def make_problem(mirror: bool = False) -> tuple[GatedFeatures, ImageStream]:
    stream = stripe_stream(40, mirror=mirror)
    transform = fit_whitening(stream.block(slice(None))[0], GEOMETRY, 6)
    gates = torch.randn(5, 7, generator=generator())
    return GatedFeatures(GEOMETRY, transform, gates), stream


def explicit(features: GatedFeatures, stream: ImageStream) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of Phi, centred Phi and centred Y, float64."""
    blocks = list(stream.blocks(1000))
    phi = torch.cat([features(images) for images, _ in blocks]).double()
    targets = torch.cat([y for _, y in blocks]).double()
    return phi.mean(0), phi - phi.mean(0), targets - targets.mean(0)


def decaying(rank: int = SIZE) -> Tensor:
    """A positive semi-definite matrix of a rank with eigenvalues 1, 1/2, 1/4, ..."""
    draw = torch.randn(SIZE, SIZE, generator=generator(), dtype=torch.float64)
    basis = torch.linalg.qr(draw).Q[:, :rank]
    return basis @ torch.diag(0.5 ** torch.arange(rank, dtype=torch.float64)) @ basis.T


def random_columns(rank: int) -> Tensor:
    draw = torch.randn(SIZE, rank, generator=generator(1), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


@EVERY_STREAM
@EVERY_CHUNK
@pytest.mark.parametrize("columns", [1, 9])
def test_products_are_those_of_the_centred_covariance(mirror, chunk, columns):
    features, stream = make_problem(mirror)
    mean, phi, _ = explicit(features, stream)
    x = torch.randn(features.n_features, columns, generator=generator(2))
    halves = [stream.subset(slice(0, 15)), stream.subset(slice(15, None))]
    found = Covariance(features, halves, mean.float(), chunk).product(x)
    expected = phi.T @ (phi @ x.double()) / len(phi)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@EVERY_STREAM
@EVERY_CHUNK
def test_one_pass_measures_the_moments(mirror, chunk):
    features, stream = make_problem(mirror)
    mean, phi, targets = explicit(features, stream)
    found = sketch_moments(features, stream, 8, chunk)
    torch.testing.assert_close(found.mean, mean.float())
    torch.testing.assert_close(found.cross, (phi.T @ targets / len(phi)).float())
    assert found.variance == pytest.approx(float(phi.square().sum()) / len(phi), rel=1e-5)
    assert found.target_variance == pytest.approx(float(targets.square().sum()) / len(phi))


def test_a_full_sketch_is_the_covariance_itself():
    features, stream = make_problem()
    _, phi, _ = explicit(features, stream)
    nystrom = sketch_moments(features, stream, 10**6, 1000).nystrom
    rebuilt = (nystrom.basis * nystrom.values) @ nystrom.basis.T
    torch.testing.assert_close(rebuilt.double(), phi.T @ phi / len(phi), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_a_matrix_of_low_rank_is_met_exactly(rank):
    matrix, columns = decaying(rank), random_columns(12)
    found = Nystrom(columns, matrix @ columns)
    torch.testing.assert_close((found.basis * found.values) @ found.basis.T, matrix)
    size = len(found.values)
    assert size == rank
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(size).double())


def test_nothing_but_zeros_preconditions_nothing():
    columns = random_columns(3)
    found = Nystrom(columns, torch.zeros_like(columns))
    residual = torch.randn(SIZE, 2, generator=generator(3), dtype=torch.float64)
    assert torch.equal(found.precondition(residual, torch.ones(2)), residual)


def test_every_column_is_preconditioned_at_its_own_shift():
    matrix, columns = decaying(), random_columns(8)
    found = Nystrom(columns, matrix @ columns)
    shifts = torch.tensor([0.3, 0.01], dtype=torch.float64)
    residual = torch.randn(SIZE, 2, generator=generator(3), dtype=torch.float64)
    together = found.precondition(residual, shifts)
    for column, shift in enumerate(shifts):
        core = torch.diag(1 / (found.values + shift))
        inside = found.basis @ core @ found.basis.T * (found.values[-1] + shift)
        outside = torch.eye(SIZE).double() - found.basis @ found.basis.T
        expected = (inside + outside) @ residual[:, column]
        torch.testing.assert_close(together[:, column], expected)


@pytest.mark.parametrize("shift", [1e-1, 1e-3])
def test_the_condition_number_is_that_of_what_was_left_out(shift):
    """At most (l_r + ...)/s, where without it there is 1/s (Frangella et al. 2023)."""
    matrix, columns = decaying(), random_columns(12)
    found = Nystrom(columns, matrix @ columns)
    system = matrix + shift * torch.eye(SIZE).double()
    shifts = torch.full((SIZE,), shift, dtype=torch.float64)
    values = torch.linalg.eigvals(found.precondition(system, shifts)).real
    left_out = 0.5**6  # half of the columns go to the eigenvectors, half to chance
    assert float(values.max() / values.min()) < 2 * (left_out + shift) / shift
