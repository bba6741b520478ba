"""A trained convex block in raw pixels: what certificates are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convexcnn.programs.certificate import GatedBlock

if TYPE_CHECKING:
    from convexcnn.models.two_layer import ConvexConvClassifier


def raw_block(model: ConvexConvClassifier) -> GatedBlock:
    """Return the block of a trained model in float64, with its gates and coordinates as filters."""
    transform = model.transform_.to("cpu").double()
    gate_vectors = model.gates_.cpu().double()
    channels, side = model.image_shape_[0], model.filter_size
    gates, gate_bias = transform.to_filters(gate_vectors)
    basis, basis_bias = transform.to_filters(torch.eye(transform.dim, dtype=torch.float64))
    return GatedBlock(
        gates=gates.view(-1, channels, side, side),
        gate_bias=gate_bias,
        gate_vectors=gate_vectors,
        basis=basis.view(-1, channels, side, side),
        basis_bias=basis_bias,
        stride=model.stride,
        padding=model.padding,
        cells=model.pooling,
        weights=model.coef_.cpu().double(),
        bias=model.intercept_.cpu().double(),
        beta=model.beta_,
    )
