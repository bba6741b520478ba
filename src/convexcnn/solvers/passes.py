"""Passes over all images: Phi block by block in a buffer that is reused, never all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.losses import Loss


def feature_blocks(
    features: GatedFeatures, streams: Sequence[ImageStream], size: int | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows, Phi (b, n_features) and targets (b, k) of all streams in turn.

    Where processes share the images, these are the rows of this one, counted from 0.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        size: rows per block; by default as many as stay in the processor's cache.

    Phi lies in a buffer that the next block overwrites, and has the precision of the operator.
    """
    size = size or features.block_size
    buffer = features.gates.new_empty(size + 1, features.n_features)
    start = 0
    for stream in streams:
        for images, targets in stream.blocks(size):
            phi = features(images.to(buffer.dtype), buffer[: len(images)])
            yield slice(start, start + len(images)), phi, targets.to(buffer.dtype)
            start += len(images)


def weighted_blocks(
    features: GatedFeatures,
    streams: Sequence[ImageStream],
    size: int | None = None,
    shift: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield blocks as :func:`feature_blocks` does, scaled so that plain squares are weighted ones.

    sum_i w_i |phi_i V + b - y_i|^2 = |S Phi V + s b - S Y|^2,  s = sqrt(w), S = diag(s)

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        size: rows per block; by default as many as stay in the processor's cache.
        shift: (n_features,) taken from every phi before it is scaled.

    Yields:
        rows, S Phi (b, n_features), S Y (b, k) and s (b, 1): ones where images have no weights.
    """
    roots = row_roots(streams)
    for rows, phi, targets in feature_blocks(features, streams, size):
        if shift is not None:
            phi -= shift
        if roots is None:
            yield rows, phi, targets, torch.ones_like(targets[:, :1])
        else:
            root = roots[rows].to(phi.dtype)
            yield rows, phi.mul_(root), targets * root, root


def row_sum(root: Tensor, values: Tensor) -> Tensor:
    """Return s' X for s (b, 1) and X (b, m); where s is one, by a sum that rounds less."""
    return values.sum(0) if bool((root == 1).all()) else root[:, 0] @ values


def row_roots(streams: Sequence[ImageStream]) -> Tensor | None:
    """The square roots of the weights of its own rows (rows, 1); None where all weigh one."""
    if all(stream.weights is None for stream in streams):
        return None
    ones = (torch.ones(stream.size, 1, dtype=torch.float64) for stream in streams)
    parts = (stream.roots() for stream in streams)
    filled = [one if part is None else part for part, one in zip(parts, ones, strict=True)]
    return torch.cat(filled)


@dataclass(frozen=True)
class FeatureScale:
    """How large features and their correlations with the targets are.

    Args:
        rows: n.
        slopes: (1/n) (Phi - mean)' (Y - mean), (k, n_features); nothing is centred without an
            intercept.
        total_variance: (1/n) sum |phi - mean phi|^2, or of |phi|^2.
    """

    rows: int
    slopes: Tensor
    total_variance: float


def feature_scale(
    features: GatedFeatures, streams: Sequence[ImageStream], *, intercept: bool = True
) -> FeatureScale:
    """Measure correlations and variance in one pass; sums of blocks are float64."""
    k, size = streams[0].n_classes, features.n_features
    cross = features.gates.new_zeros(k, size, dtype=torch.float64)
    phi_sum, target_sum, square = cross.new_zeros(size), cross.new_zeros(k), 0.0
    for _, phi, targets in feature_blocks(features, streams):
        cross += targets.T @ phi
        phi_sum += phi.sum(0)
        target_sum += targets.sum(0)
        square += float(phi.square().sum())
    processes, rows = streams[0].processes, sum(len(stream) for stream in streams)
    processes.add_up(cross, phi_sum, target_sum)
    square = processes.total(square)
    if intercept:
        cross -= torch.outer(target_sum, phi_sum) / rows
        square -= float(phi_sum.square().sum()) / rows
    return FeatureScale(rows, cross / rows, square / rows)


@dataclass(frozen=True)
class ImageTotals:
    """Sums over all images that do not depend on the weights.

    Args:
        targets: Y of this process's own rows, (n, k).
        cross: Y' Phi, (k, n_features).
        feature_sum: sum of phi, (n_features,).
        target_sum: sum of y, (k,).
        rows: of all processes.
        processes: that share the images.
    """

    targets: Tensor
    cross: Tensor
    feature_sum: Tensor
    target_sum: Tensor
    rows: int
    processes: Processes = ALONE

    @classmethod
    def of(
        cls,
        targets: Tensor,
        cross: Tensor,
        feature_sum: Tensor,
        processes: Processes = ALONE,
    ) -> ImageTotals:
        """The sums of all processes, from those over the rows of each."""
        target_sum = targets.sum(0)
        processes.add_up(cross, feature_sum, target_sum)
        rows = int(processes.total(len(targets)))
        return cls(targets, cross, feature_sum, target_sum, rows, processes)

    @property
    def mean(self) -> Tensor:
        """Mean feature vector, (n_features,)."""
        return self.feature_sum / self.rows

    def centred_cross(self) -> Tensor:
        """(Y - mean)' (Phi - mean), (k, n_features)."""
        return self.cross - torch.outer(self.target_sum / self.rows, self.feature_sum)


def image_totals(features: GatedFeatures, streams: Sequence[ImageStream]) -> ImageTotals:
    """Sum targets and features in one pass."""
    cross = features.gates.new_zeros(streams[0].n_classes, features.n_features)
    feature_sum = features.gates.new_zeros(features.n_features)
    targets = []
    for _, phi, block_targets in feature_blocks(features, streams):
        cross.addmm_(block_targets.T, phi)
        feature_sum += phi.sum(0)
        targets.append(block_targets)
    return ImageTotals.of(torch.cat(targets), cross, feature_sum, streams[0].processes)


def pull_back(
    features: GatedFeatures,
    streams: Sequence[ImageStream],
    loss: Loss,
    weights: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of some weights and the slope of the loss there, in one pass and their precision.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        loss: whose slope.
        weights: V, (k, n_features).
        bias: b, (k,).

    Returns:
        scores (n, k) and L = -loss'(scores), (n, k), of this process's own rows; L' Phi,
        (k, n_features), over all rows.
    """
    columns = weights.T.contiguous()
    pulled = torch.zeros_like(weights)
    scores, negative = [], []
    for _, phi, targets in feature_blocks(features, streams):
        phi = phi.to(weights.dtype)
        block = phi @ columns + bias
        slope = -loss.gradient(block, targets)
        pulled.addmm_(slope.T, phi)
        scores.append(block)
        negative.append(slope)
    streams[0].processes.add_up(pulled)
    return torch.cat(scores), torch.cat(negative), pulled
