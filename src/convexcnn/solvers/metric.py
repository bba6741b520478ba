"""(G + rho I)^-1 for the centred Gram matrix G of the features: one factorisation, many products.

G = sum over images of (phi - mean)(phi - mean)' is held as itself where there are fewer features
than images, and as the kernel of the images otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cholesky import BAND, BLOCK, CholeskyFactor
from convexcnn.solvers.passes import feature_blocks
from convexcnn.solvers.ridge.statistics import pilot_mean

CHUNK_BYTES = 0.25e9
"""Of the rows of Phi that are in memory at once."""


def metric_chunk(size: int) -> int:
    """Rows of Phi in a block, of so many features."""
    return int(min(2000, max(100, CHUNK_BYTES / (4 * size))))


def gram_metric_bytes(size: int) -> float:
    """Memory of the Gram matrix of ``size`` features with its factor."""
    return 4.0 * size * (size + BAND)


def kernel_metric_bytes(rows: int, kept_size: int = 0) -> float:
    """Memory of the kernel of ``rows`` images with its factor, and of Phi if that is kept."""
    return 4.0 * rows * (2 * rows + kept_size)


def make_metric(
    features: GatedFeatures, streams: Sequence[ImageStream], memory_gb: float
) -> Metric:
    """The cheaper one that fits into memory; a kernel whose features are made again if none does.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        memory_gb: what the metric may need.
    """
    rows, size = sum(len(stream) for stream in streams), features.n_features
    chunk = metric_chunk(size)
    keep = kernel_metric_bytes(rows, size) <= 1e9 * memory_gb
    gram = gram_metric_bytes(size) <= 1e9 * memory_gb
    if size <= rows or (gram and not keep):
        return GramMetric(features, streams, chunk=chunk)
    return KernelMetric(features, streams, chunk=chunk, keep=keep)


class Metric(ABC):
    """Solves with G + rho I, for one rho at a time.

    Args:
        rows: n, images (mirrored ones included).
        mean_square: (1/m) trace of G, over the m features.
    """

    rows: int
    mean_square: float
    rho: float = 0.0

    @abstractmethod
    def factorise(self, rho: float) -> None:
        """Prepare for solves with G + rho I."""

    @abstractmethod
    def solve(self, right: Tensor) -> Tensor:
        """Return (G + rho I)^-1 R for R (m, r)."""


class GramMetric(Metric):
    """G in memory, m x m in float32, and its Cholesky factor in the other triangle.

    The upper triangle of the first m rows of one tall array is G. The factor is written over the
    lower triangle of the last m rows, so far down that the two share no number.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        chunk: rows of Phi held in memory.
    """

    def __init__(
        self, features: GatedFeatures, streams: Sequence[ImageStream], *, chunk: int
    ) -> None:
        size = features.n_features
        self._store = features.gates.new_zeros(size + BAND, size)
        gram = self._store[:size]
        shift = pilot_mean(features, streams[0])
        total = torch.zeros_like(shift)
        self.rows = 0
        for _, phi, _ in feature_blocks(features, streams, chunk):
            phi -= shift
            for top in range(0, size, BLOCK):
                rows = slice(top, top + BLOCK)
                gram[rows, top:].addmm_(phi[:, rows].T, phi[:, top:])
            total += phi.sum(0)
            self.rows += len(phi)
        mean = total / self.rows
        for top in range(0, size, BLOCK):
            rows = slice(top, top + BLOCK)
            gram[rows, top:].addr_(mean[rows], mean[top:], alpha=-self.rows)
        self.mean_square = float(gram.diagonal().mean())

    def factorise(self, rho: float) -> None:
        size = self._store.shape[1]
        gram, lower = self._store[:size], self._store[BAND:]
        for top in range(0, size, BLOCK):
            rows = slice(top, top + BLOCK)
            lower[top:, rows] = gram[rows, top:].T
        self._factor = CholeskyFactor(lower, rho)
        self.rho = rho

    def solve(self, right: Tensor) -> Tensor:
        return self._factor.solve(right)


class KernelMetric(Metric):
    """The same from the n x n kernel K = Phi Phi' of centred features, for few images.

    (G + rho I)^-1 R = (R - Phi' (K + rho I)^-1 Phi R) / rho.

    Args:
        features: the operator Phi.
        streams: images, one stream after the other.
        chunk: rows of Phi that are made at once.
        keep: whether all of Phi stays in memory; otherwise every product makes it again.
    """

    def __init__(
        self,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        *,
        chunk: int,
        keep: bool,
    ) -> None:
        self._features, self._streams, self._chunk = features, streams, chunk
        self.rows = sum(len(stream) for stream in streams)
        self._shift = pilot_mean(features, streams[0])
        self._kept: Tensor | None = None
        if keep:
            kept = self._shift.new_empty(self.rows, features.n_features)
            for rows, phi in self._blocks(chunk):
                kept[rows] = phi
            self._kept = kept
        kernel = self._shift.new_empty(self.rows, self.rows)
        for rows, band in self._blocks(chunk):
            for columns, phi in self._blocks(chunk):
                if columns.start >= rows.stop:
                    break
                products = band @ phi.T
                kernel[rows, columns] = products
                kernel[columns, rows] = products.T
        means = kernel.mean(0)
        kernel -= means
        kernel -= (means - means.mean())[:, None]
        self._kernel = kernel
        self.mean_square = float(kernel.diagonal().sum()) / features.n_features

    def factorise(self, rho: float) -> None:
        self._factor = CholeskyFactor(self._kernel.clone(), rho)
        self.rho = rho

    def solve(self, right: Tensor) -> Tensor:
        images = right.new_empty(self.rows, right.shape[1])
        for rows, phi in self._blocks(self._chunk):
            torch.mm(phi, right, out=images[rows])
        images -= images.mean(0)
        inner = self._factor.solve(images)
        inner -= inner.mean(0)
        out = right.clone()
        for rows, phi in self._blocks(self._chunk):
            out.addmm_(phi.T, inner[rows], alpha=-1)
        return out.div_(self.rho)

    def _blocks(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows and Phi - shift, from memory or made again."""
        if self._kept is not None:
            for start in range(0, self.rows, size):
                rows = slice(start, min(start + size, self.rows))
                yield rows, self._kept[rows]
            return
        for rows, phi, _ in feature_blocks(self._features, self._streams, size):
            phi -= self._shift
            yield rows, phi
