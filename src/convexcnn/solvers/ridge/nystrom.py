"""The covariance of streamed features: products with it, and a Nystrom approximation of it.

A = (1/n) (Phi - mean)' (Phi - mean) is never formed: a product rebuilds Phi block by block. One
pass with r random columns W yields  A ~ (A W) (W' A W)^+ (A W)' = U diag(values) U', which is exact
on the leading eigenvectors up to the size of the first eigenvalue that is left out. Images that
have weights count as often as these say, in n and in means too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.passes import row_sum, weighted_blocks
from convexcnn.solvers.ridge.statistics import pilot_mean

ROUNDING = 1e-6
"""Eigenvalues below this part of the largest are rounding in float32."""

ROWS_PER_COLUMN = 2
"""Rows of Phi in a block, per column it is multiplied with: wide sums are then rarely touched."""


def _rows(features: GatedFeatures, columns: int, chunk: int) -> int:
    """Rows of Phi for a block that is multiplied with so many columns."""
    return max(features.block_size, min(ROWS_PER_COLUMN * columns, chunk))


class Covariance:
    """Products with A, of any number of columns, by one pass each.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        mean: of the features of these images, (n_features,).
        chunk: rows of Phi held in memory at most.
    """

    def __init__(
        self,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        mean: Tensor,
        chunk: int,
    ) -> None:
        self.features = features
        self.streams = streams
        self.mean = mean
        self.chunk = chunk

    def product(self, x: Tensor) -> Tensor:
        """Return A X for X (n_features, c)."""
        size = _rows(self.features, x.shape[1], self.chunk)
        offset, out = self.mean @ x, torch.zeros_like(x)
        total = torch.zeros_like(offset)
        for _, phi, _, root in weighted_blocks(self.features, self.streams, size):
            scores = phi @ x
            scores -= root * offset
            out.addmm_(phi.T, scores)
            total += row_sum(root, scores)
        self.streams[0].processes.add_up(out, total)
        rows = sum(stream.total for stream in self.streams)
        return out.addr_(self.mean, total, alpha=-1).div_(rows)


class Nystrom:
    """A ~ U diag(values) U' with orthonormal U, and what it preconditions.

    Args:
        columns: W, (n_features, r) orthonormal.
        image: A W, (n_features, r).

    Source: Frangella, Tropp & Udell 2023, Randomized Nystrom Preconditioning.
    """

    def __init__(self, columns: Tensor, image: Tensor) -> None:
        core = (columns.T @ image).double()
        sizes, vectors = torch.linalg.eigh((core + core.T) / 2)
        kept = sizes > ROUNDING * sizes[-1]
        root = image @ (vectors[:, kept] / sizes[kept].sqrt()).to(image.dtype)
        orthonormal, triangle = torch.linalg.qr(root)
        left, singular, _ = torch.linalg.svd(triangle.double())
        self.basis = orthonormal @ left.to(image.dtype)
        self.values = singular.square().to(image.dtype)

    def precondition(self, residual: Tensor, shifts: Tensor) -> Tensor:
        """Return about (A + s I)^-1 R, times a constant, for R (n_features, c) and s (c,).

        (l_r + s) U (values + s)^-1 U' + (I - U U'), with l_r the smallest value kept.
        """
        if not len(self.values):
            return residual.clone()
        scale = (self.values[-1] + shifts) / (self.values[:, None] + shifts) - 1
        return torch.addmm(residual, self.basis, scale * (self.basis.T @ residual))


@dataclass(frozen=True)
class Moments:
    """What one pass over the training images tells before any system is solved.

    Args:
        mean: of the features, (n_features,).
        cross: (1/n) (Phi - mean)' (Y - mean), (n_features, k).
        variance: (1/n) sum |phi - mean|^2.
        target_variance: (1/n) sum |y - mean y|^2.
        nystrom: approximation of A.
    """

    mean: Tensor
    cross: Tensor
    variance: float
    target_variance: float
    nystrom: Nystrom


def sketch_moments(
    features: GatedFeatures, stream: ImageStream, rank: int, chunk: int, *, seed: int = 0
) -> Moments:
    """Measure moments and sketch A in one pass.

    Args:
        features: the operator Phi.
        stream: training images.
        rank: r, number of random columns.
        chunk: rows of Phi held in memory.
        seed: of the random columns.
    """
    width, k = features.n_features, stream.n_classes
    shift = pilot_mean(features, stream)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(width, min(rank, width), generator=generator)
    columns = stream.processes.agree(torch.linalg.qr(draw.to(shift.device)).Q)
    sums = shift.new_zeros(width, columns.shape[1] + k)
    total, phi_sum = shift.new_zeros(sums.shape[1]), shift.new_zeros(width)
    square, target_square, rows = 0.0, 0.0, stream.total
    size = _rows(features, len(total), chunk)
    for _, phi, targets, root in weighted_blocks(features, [stream], size, shift):
        right = torch.cat([phi @ columns, targets], 1)
        sums.addmm_(phi.T, right)
        total += row_sum(root, right)
        phi_sum += row_sum(root, phi)
        square += float(torch.linalg.vector_norm(phi)) ** 2
        target_square += float(targets.square().sum())
    stream.processes.add_up(sums, total, phi_sum)
    square, target_square = map(stream.processes.total, (square, target_square))
    mean = phi_sum / rows
    sums.addr_(mean, total, alpha=-1).div_(rows)
    return Moments(
        mean=mean + shift,
        cross=sums[:, -k:].clone(),
        variance=square / rows - float(mean.square().sum()),
        target_variance=(target_square - float(total[-k:].square().sum()) / rows) / rows,
        nystrom=Nystrom(columns, sums[:, :-k]),
    )
