"""Sufficient statistics of a least-squares program: one pass over any stream, any time."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.passes import row_sum, weighted_blocks

BAND = 2048
"""Columns of the Gram matrix that are updated at once, below the diagonal only."""

PILOT_NUMBERS = 2**24
"""Numbers in the pixels or features that a pilot mean is taken of, at most."""


class GramStatistics:
    """n, sums of phi, |phi|^2, y and |y|^2, Phi' Phi and Phi' Y, phi shifted by a pilot mean.

    Images that have weights count as often as their weights say, n included.

    The shift keeps float32 sums accurate: Phi' Phi would otherwise be a large constant plus a
    small covariance. Only the lower triangle of the Gram matrix is accumulated.

    Args:
        features: the operator Phi.
        n_classes: k.
        shift: (n_features,) subtracted from every feature vector, near their mean.
        chunk: rows of Phi held in memory.
    """

    def __init__(
        self, features: GatedFeatures, n_classes: int, shift: Tensor, *, chunk: int = 2000
    ) -> None:
        size = features.n_features
        self.features = features
        self.shift = shift
        self.chunk = chunk
        self.count = 0.0
        self.gram = shift.new_zeros(size, size)
        self.cross = shift.new_zeros(size, n_classes)
        self.feature_sum = shift.new_zeros(size)
        self.target_sum = shift.new_zeros(n_classes)
        self.square, self.target_square = shift.new_zeros(2, dtype=torch.float64)

    def add(self, stream: ImageStream) -> None:
        """Add every row of a stream, also those that other processes walk through."""
        small = self.feature_sum, self.target_sum, self.square, self.target_square
        sums = self.gram, self.cross, *small
        stream.processes.count_once(*sums)
        blocks = weighted_blocks(self.features, [stream], self.chunk, self.shift)
        for _, phi, targets, root in blocks:
            for left in range(0, phi.shape[1], BAND):
                band = slice(left, left + BAND)
                self.gram[left:, band].addmm_(phi[:, left:].T, phi[:, band])
            self.cross.addmm_(phi.T, targets)
            self.feature_sum += row_sum(root, phi)
            self.target_sum += row_sum(root, targets)
            self.square += torch.linalg.vector_norm(phi, dtype=torch.float64).square()
            self.target_square += targets.square().sum()
        stream.processes.add_up(*sums)
        self.count += stream.total

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return the covariance sums (Phi - mean)'(Phi - mean) and (Phi - mean)'(Y - mean).

        The first is a new lower triangle: the statistics can still grow afterwards.
        """
        mean = self.feature_sum / self.count
        gram = torch.addr(self.gram, mean, mean, alpha=-self.count)
        return gram, self.cross - torch.outer(mean, self.target_sum)

    def variance(self) -> float:
        """Return the mean of |phi - mean|^2, in float64: default betas are multiples of it."""
        mean = self.feature_sum.double() / self.count
        return float(self.square / self.count - mean.square().sum())

    def intercept(self, weights: Tensor) -> Tensor:
        """Return the best b (k,) for weights V (n_features, k): mean y - V' mean phi."""
        mean = self.shift + self.feature_sum / self.count
        return self.target_sum / self.count - mean @ weights

    def centred_target_square(self) -> float:
        """Return sum |y - mean y|^2."""
        return float(self.target_square - self.target_sum.square().sum() / self.count)


def pilot_mean(features: GatedFeatures, stream: ImageStream, images: int = 500) -> Tensor:
    """Return the mean feature vector (n_features,) of the first images of a stream."""
    few = min(images, stream.images_of(PILOT_NUMBERS), PILOT_NUMBERS // features.n_features)
    block, _ = stream.sample(slice(0, max(1, few)))
    return stream.processes.agree(features(block).mean(0))
