"""Sufficient statistics say about Phi and Y what the explicit matrices say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import fit_whitening
from convexcnn.solvers import direct
from convexcnn.solvers.direct import symmetric_product
from convexcnn.solvers.ridge import statistics
from convexcnn.solvers.ridge.statistics import GramStatistics, pilot_mean
from small import generator, stripe_stream

GEOMETRY = PatchGeometry((1, 8, 8), 3, stride=2, cells=2)
K = 3


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(statistics, "BAND", 10)
    monkeypatch.setattr(direct, "BAND", 10)


def make_features(stream: ImageStream) -> GatedFeatures:
    images, _ = stream.block(slice(None))
    transform = fit_whitening(images, GEOMETRY, 3)
    return GatedFeatures(GEOMETRY, transform, torch.randn(3, 4, generator=generator()))


def explicit(features: GatedFeatures, *streams: ImageStream) -> tuple[np.ndarray, np.ndarray]:
    """Phi and Y of all rows, float64."""
    blocks = [block for stream in streams for block in stream.blocks(1000)]
    phi = torch.cat([features(images) for images, _ in blocks])
    return phi.double().numpy(), torch.cat([y for _, y in blocks]).double().numpy()


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
@pytest.mark.parametrize("chunk", [4, 7, 1000])
@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_are_those_of_explicit_phi(mirror, chunk, parts):
    streams = [stripe_stream(n, mirror=mirror, seed=n) for n in (30, 14)][:parts]
    features = make_features(streams[0])
    shift = pilot_mean(features, streams[0])
    found = GramStatistics(features, K, shift, chunk=chunk)
    for stream in streams:
        found.add(stream)
    phi, targets = explicit(features, *streams)
    phi_c, targets_c = phi - phi.mean(0), targets - targets.mean(0)
    gram, cross = found.centred()
    close = {"rtol": 1e-4, "atol": 1e-4 * np.abs(phi_c.T @ phi_c).max()}
    assert found.count == len(phi) == sum(len(stream) for stream in streams)
    np.testing.assert_allclose(gram.tril(), np.tril(phi_c.T @ phi_c), **close)
    np.testing.assert_allclose(cross, phi_c.T @ targets_c, **close)
    assert found.centred_target_square() == pytest.approx(np.square(targets_c).sum(), rel=1e-6)
    weights = np.random.default_rng(0).standard_normal((phi.shape[1], K))
    np.testing.assert_allclose(
        found.intercept(torch.from_numpy(weights).float()),
        targets.mean(0) - phi.mean(0) @ weights,
        rtol=1e-4,
        atol=1e-4,
    )


def test_centring_leaves_the_statistics_to_grow():
    stream = stripe_stream(30)
    features = make_features(stream)
    grown = GramStatistics(features, K, pilot_mean(features, stream))
    grown.add(stream.subset(slice(0, 18)))
    gram, _ = grown.centred()
    gram.zero_()
    grown.add(stream.subset(slice(18, None)))
    whole = GramStatistics(features, K, pilot_mean(features, stream))
    whole.add(stream)
    torch.testing.assert_close(grown.centred(), whole.centred(), rtol=1e-4, atol=1e-4)


def test_the_pilot_mean_is_the_mean_of_the_first_images():
    stream = stripe_stream(30, mirror=True)
    features = make_features(stream)
    expected = features(stream.block(slice(0, 12))[0]).mean(0)
    torch.testing.assert_close(pilot_mean(features, stream, images=12), expected)


@pytest.mark.parametrize("size", [1, 9, 10, 11, 35])
def test_half_a_symmetric_matrix_multiplies_like_the_whole(size):
    draw = torch.randn(size, size, generator=generator(), dtype=torch.float64)
    matrix = draw + draw.T
    lower = matrix.clone()
    for start in range(0, size, 10):  # above the diagonal blocks there may be anything
        lower[start : start + 10, start + 10 :] = torch.nan
    right = torch.randn(size, 2, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(symmetric_product(lower, right), matrix @ right)
