"""A fitted stack as a plain torch module: the same scores, and gradients through all blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from convexcnn.models import Block
from convexcnn.models.torch_stack import GatedHead, on_patches
from convexcnn.patches.extract import PatchGeometry
from small import stripes
from tiny_models import TINY_BLOCKS, layerwise

BLOCKS = {
    "average": TINY_BLOCKS,
    "space to depth": (
        Block(stride=2, n_gates=3, gates="patches", n_neurons=4, downsample="space-to-depth"),
        Block(n_gates=3, gates="patches", whiten=6),
    ),
    "ragged cells": (
        Block(n_gates=3, gates="patches", n_neurons=4, pooling=4, whiten=None),
        Block(filter_size=2, padding=0, n_gates=2, gates="gaussian", pooling=3),
    ),
    "one block": (Block(n_gates=4, gates="patches"),),
}


@pytest.fixture(scope="module", params=BLOCKS)
def stack(request):
    return layerwise(blocks=BLOCKS[request.param]).fit(*stripes(48, size=9, channels=3))


def test_network_has_the_scores_of_its_stack(stack) -> None:
    images, _ = stripes(48, size=9, channels=3)
    expected = stack.scores(images)
    with torch.no_grad():
        scores = stack.to_torch()(torch.from_numpy(images)).numpy()
    near = np.abs(scores - expected).max(1) <= 1e-3 * np.abs(expected).max()
    assert near.mean() > 0.9  # the others have a patch or a map within rounding of a boundary


def test_network_of_a_stack_agrees_on_a_thousand_images() -> None:
    """Maps are rounded to 16 bits: of few images a number lies where rounding may go either way."""
    blocks = (Block(stride=2, n_gates=16, epochs=4), Block(n_gates=16, epochs=4))
    model = layerwise(blocks=blocks, certificates=False).fit(*stripes(60, size=9))
    images = np.random.default_rng(1).integers(0, 256, (1000, 1, 9, 9)).astype(np.uint8)
    expected = model.scores(images)
    with torch.no_grad():
        scores = model.to_torch()(torch.from_numpy(images)).numpy()
    apart = np.abs(scores - expected).max(1) / np.abs(expected).max()
    assert (apart <= 1e-5).mean() >= 0.98
    assert apart.max() < 1e-4


def test_gradient_is_that_of_the_affine_piece(stack) -> None:
    network = stack.to_torch().double()
    for block in network.blocks[:-1]:
        block.maps.rounds = False  # 16 bits hide small steps
    images, _ = stripes(1, size=9, channels=3)
    image = torch.from_numpy(images).double().requires_grad_()
    step = 1e-6 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).double()
    (gradient,) = torch.autograd.grad(network(image)[0, 1], image)
    with torch.no_grad():
        change = network(image + step)[0, 1] - network(image)[0, 1]
    assert float(change) == pytest.approx(float((gradient * step).sum()), rel=1e-4)


def test_heads_are_summed_by_their_weights() -> None:
    images, labels = stripes(48, size=9, channels=3)
    stack = layerwise().fit(images, labels)
    stack.head_weights_ = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64)
    with torch.no_grad():
        scores = stack.to_torch()(torch.from_numpy(images)).numpy()
    heads = stack.block_scores(images)
    np.testing.assert_allclose(scores, 0.25 * heads[0] + 0.75 * heads[2], atol=1e-3)


def test_an_untrained_stack_says_so() -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        layerwise().to_torch()


def test_a_head_on_relu_responses_is_pooled_and_weighed() -> None:
    geometry = PatchGeometry((2, 6, 6), 3, cells=2)
    generator = torch.Generator().manual_seed(0)
    gates = torch.randn(4, 5, generator=generator)
    weights, bias = torch.randn(3, 4, 4, 1, generator=generator), torch.ones(3)
    x = torch.randn(2, 5, 4, 4, generator=generator)
    responses = torch.einsum("ndrs,gd->ngrs", x, gates)
    found = GatedHead(geometry, weights, gates, bias)(x, (responses >= 0).float())
    pooled = torch.nn.functional.adaptive_avg_pool2d(responses.relu(), 2).flatten(2)
    expected = torch.einsum("ngc,kcg->nk", pooled, weights[..., 0]) + bias
    torch.testing.assert_close(found, expected)


def test_weights_of_responses_are_weights_of_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    patches, gates = torch.randn(7, 5, generator=generator), torch.randn(3, 5, generator=generator)
    weights = torch.randn(2, 1, 3, 1, generator=generator)
    by_response = torch.relu(patches @ gates.T) @ weights[:, 0, :, 0].T
    on = (patches @ gates.T >= 0).float()
    by_patch = torch.einsum("lg,ld,kgd->lk", on, patches, on_patches(weights, gates)[:, 0])
    torch.testing.assert_close(by_patch, by_response)
    assert on_patches(torch.ones(2, 1, 3, 5), gates).shape == (2, 1, 3, 5)
