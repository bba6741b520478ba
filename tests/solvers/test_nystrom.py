"""The streamed covariance and its Nystrom approximation, against explicit matrices."""

from __future__ import annotations

import pytest
import torch

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.nystrom import Covariance, Nystrom, sketch_moments
from small import GEOMETRIES, generator, make_features, stripe_stream

EVERY_STREAM = pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
EVERY_CHUNK = pytest.mark.parametrize("chunk", [2, 7, 1000])
N = 40


def make_problem(mirror: bool = False) -> tuple[GatedFeatures, ImageStream]:
    stream = stripe_stream(N, mirror=mirror)
    gates = torch.randn(5, 7, generator=generator())
    from convexcnn.patches.extract import PatchGeometry
    from convexcnn.patches.whiten import fit_whitening

    geometry = PatchGeometry((1, 8, 8), 4, stride=2)
    transform = fit_whitening(stream.block(slice(None))[0], geometry, 6)
    return GatedFeatures(geometry, transform, gates), stream
