"""The search for a further neuron: its slope is real, grows, and is that of the loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.certificates.certificate import GatedBlock
from convexcnn.certificates.further_neuron import (
    FurtherNeuron,
    every_so_many,
    exact_slopes,
    find_further_neuron,
    search_starts,
    steepest_neurons,
)
from convexcnn.programs.kind import ProgramKind
from small import GEOMETRIES, generator, make_features, reference_patches, stripe_stream

K = 3
GEOMETRY = GEOMETRIES["even cells"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "mirrored"])
def problem(request):
    """Phi, a stream, a residual and a block with weights, in float64."""
    stream = stripe_stream(n=18, size=7, mirror=request.param)
    features = make_features(GEOMETRY, "whitened", n_gates=3)
    residual = torch.randn(len(stream), K, generator=generator(2), dtype=torch.float64)
    residual -= residual.mean(0)
    dim, side = features.transform.dim, GEOMETRY.filter_size
    basis, bias = features.transform.to_filters(torch.eye(dim, dtype=torch.float64))
    block = GatedBlock(
        gates=torch.zeros(3, 1, side, side),
        gate_bias=torch.zeros(3),
        gate_vectors=features.gates,
        basis=basis.view(dim, 1, side, side),
        basis_bias=bias,
        stride=GEOMETRY.stride,
        padding=GEOMETRY.padding,
        cells=GEOMETRY.cells,
        weights=torch.randn(K, 4, 3, dim, generator=generator(3), dtype=torch.float64),
        bias=torch.zeros(K),
        beta=0.01,
    )
    return features, stream, residual, block


def slope_by_loops(features, stream, residual, u, shared) -> float:
    """s(u) as its definition says, patch by patch."""
    images = torch.cat([images for images, _ in stream.blocks(100)]).double()
    patches = reference_patches(images, GEOMETRY, features.transform)
    responses = np.maximum(patches @ u.numpy(), 0)  # (n, rows, columns)
    rows, cells = responses.shape[1], GEOMETRY.cells
    bounds = [(i * rows // cells, -(-(i + 1) * rows // cells)) for i in range(cells)]
    pooled = [responses[:, a:b, c:d].mean((1, 2)) for a, b in bounds for c, d in bounds]
    slopes = residual.numpy().T @ np.stack(pooled, 1) / len(images)
    return float(np.linalg.norm(slopes) if shared else np.abs(slopes).max())


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_the_slope_is_that_of_the_loops(problem, regulariser):
    features, stream, residual, block = problem
    kind, shared = ProgramKind("gated", regulariser), regulariser == "nuclear"
    starts = search_starts(features, stream, block.weights, generator())
    found = steepest_neurons(features, stream, residual, starts, shared=shared, passes=3)
    torch.testing.assert_close(found.neurons.norm(dim=1), torch.ones(len(starts)).double())
    assert (found.slopes.diff() <= 0).all()
    exact = exact_slopes(block, stream, residual, 2 * found.neurons[:3], kind)
    expected = [slope_by_loops(features, stream, residual, u, shared) for u in found.neurons[:3]]
    np.testing.assert_allclose(found.slopes[:3], expected, rtol=1e-9)
    np.testing.assert_allclose(exact, expected, rtol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_more_passes_never_find_less(problem, shared):
    features, stream, residual, block = problem
    starts = search_starts(features, stream, block.weights, generator())
    slopes = [
        float(
            steepest_neurons(
                features, stream, residual, starts, shared=shared, passes=passes
            ).slopes[0]
        )
        for passes in (1, 3, 9, 27)
    ]
    assert slopes == sorted(slopes)
    assert slopes[-1] > slopes[0]


def test_random_neurons_are_not_steeper_than_what_the_search_found(problem):
    features, stream, residual, block = problem
    kind = ProgramKind("gated", "group")
    found = find_further_neuron(features, stream, residual, block, kind, generator())
    others = torch.randn(200, features.transform.dim, generator=generator(9)).double()
    assert found.slope > float(exact_slopes(block, stream, residual, others, kind).max())
    assert found.violation == pytest.approx(found.slope / block.beta - 1)


def test_of_many_images_some_are_climbed_on(problem):
    _, stream, residual, _ = problem
    part, rows = every_so_many(stream, residual, 6)
    assert len(part.images) == 6
    assert len(rows) == len(part)
    wide = 1 + stream.mirror
    assert torch.equal(rows[wide : 2 * wide], residual[3 * wide : 4 * wide])
    np.testing.assert_array_equal(part.images[1], stream.images[3])
    assert every_so_many(stream, residual)[1].equal(residual)


def test_l2_has_no_threshold(problem):
    features, stream, residual, block = problem
    kind = ProgramKind("gated", "l2")
    found = find_further_neuron(features, stream, residual, block, kind, generator())
    assert found.threshold is None
    assert found.violation is None
    assert found.present == pytest.approx(0.01 * float(block.weights.norm(dim=-1).max()))
    assert "every further neuron helps" in found.words()


def test_words_say_that_it_is_a_search():
    above = FurtherNeuron(0.3, 0.1, 2.0, None, 24, 16)
    below = FurtherNeuron(0.09, 0.1, -0.1, None, 24, 16)
    assert "at least 3 times the threshold" in above.words()
    assert "none was found" in below.words()
    assert "0.900 of the threshold" in below.words()
    for found in (above, below):
        assert "not a proof" in found.words()
        assert found.to_dict()["words"] == found.words()
