"""Where an iterative solver begins: the optimum over some gates and some directions of a patch.

The features Phi S of a few gates, each reduced to the leading principal directions of the patches,
are few enough for their Gram matrix. The best V of the form S W solves a small ridge regression,
and S W is a point of the whole program, with the same features and the same loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cholesky import CholeskyFactor, shifted_solutions
from convexcnn.solvers.path import PATH_TOLERANCE
from convexcnn.solvers.ridge.statistics import GramStatistics, pilot_mean

DIRECTIONS = 48
"""Principal directions of a patch that are kept: nearly all of its variance."""

PATCH_IMAGES, PATCH_NUMBERS = 500, 2**22
"""Images whose patches give the directions, and the most numbers in them: patches are more."""


class CoarseFeatures(GatedFeatures):
    """Phi S: the features of every few gates, in some directions of the patch.

    Args:
        features: the operator Phi.
        images: (n, channels, height, width) scaled images, for the principal directions.
        size: number of coarse features, at most, as long as one gate has no more.
        processes: that share the training images, and take the same directions.
    """

    def __init__(
        self,
        features: GatedFeatures,
        images: Tensor,
        size: int,
        processes: Processes = ALONE,
    ) -> None:
        cells, gates, dim = features.shape
        kept = min(dim, DIRECTIONS)
        count = min(gates, max(1, size // (cells * kept)))
        self.chosen = torch.arange(count, device=features.gates.device) * gates // count
        gates_kept = features.gates[self.chosen]
        super().__init__(features.geometry, features.transform, gates_kept, features.pool)
        patches = self.pooling(images).flatten(0, 1)
        vectors = torch.linalg.eigh(patches.T @ patches).eigenvectors
        self.directions = processes.agree(vectors.flip(1)[:, :kept].contiguous())
        self.fine_shape = features.shape
        self._fine = images.new_empty(self.block_size, cells * count * dim)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(cells, gates, directions)."""
        return self.geometry.n_cells, len(self.gates), self.directions.shape[1]

    @property
    def block_size(self) -> int:
        """Images per block for which bits and features of all directions stay in cache."""
        return GatedFeatures(self.geometry, self.transform, self.gates).block_size

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = images.new_empty(len(images), self.n_features)
        for start in range(0, len(images), len(self._fine)):
            rows = slice(start, start + len(self._fine))
            part = images[rows]
            fine = self._fine[: len(part)]
            self._fill(self.pooling(part), fine)
            columns = fine.view(-1, len(self.directions))
            torch.mm(columns, self.directions, out=out[rows].view(len(columns), -1))
        return out

    def prolong(self, coarse: Tensor) -> Tensor:
        """Return S W (fine features, c) for W (n_features, c)."""
        cells, gates, dim = self.fine_shape
        count, kept = self.shape[1:]
        fine = coarse.new_zeros(cells, gates, dim, coarse.shape[1])
        blocks = coarse.view(cells, count, kept, -1)
        fine[:, self.chosen] = torch.einsum("dq,cgqk->cgdk", self.directions, blocks)
        return fine.view(cells * gates * dim, -1)


def coarse_solutions(
    features: GatedFeatures,
    stream: ImageStream,
    betas: Sequence[float],
    size: int,
    chunk: int,
) -> Tensor:
    """The best V = S W of every beta, from one pass that makes only the coarse features.

    Args:
        features: the operator Phi.
        stream: training images.
        betas: weights of (1/2) |V|^2.
        size: number of coarse features, at most.
        chunk: rows of them held in memory.

    Returns:
        (n_features, len(betas), k).
    """
    few = min(PATCH_IMAGES, stream.images_of(PATCH_NUMBERS))
    images, _ = stream.sample(slice(0, few))
    coarse = CoarseFeatures(features, images, size, stream.processes)
    statistics = GramStatistics(coarse, stream.n_classes, pilot_mean(coarse, stream), chunk=chunk)
    statistics.add(stream)
    gram, cross = statistics.centred()
    shifts = [beta * statistics.count for beta in betas]
    factor = CholeskyFactor(gram, (min(shifts) * max(shifts)) ** 0.5)
    solutions, _ = shifted_solutions(factor, cross, shifts, tolerance=PATH_TOLERANCE)
    flat = solutions.permute(1, 0, 2).flatten(1)
    return coarse.prolong(flat).view(features.n_features, len(betas), -1)
