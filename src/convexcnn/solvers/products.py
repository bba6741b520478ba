"""Products with Phi and Phi' for first-order methods, from memory or from a stream of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.losses import Loss
from convexcnn.programs.program import Program
from convexcnn.solvers.passes import ImageTotals, feature_blocks, image_totals, pull_back


class Products(ABC):
    """Phi of some gates.

    Args:
        shape: (cells, g, d).
        dtype: of weights and slopes.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype

    @abstractmethod
    def totals(self) -> ImageTotals:
        """Targets, Y' Phi and the sum of the features."""

    @abstractmethod
    def measure(self, loss: Loss, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (n, k), L = -loss'(scores) and L' Phi (k, m) of weights (k, m) and b (k,).

        Scores and L are those of this process's own rows, L' Phi is over all rows.
        """

    @abstractmethod
    def gram_times(self, vector: Tensor) -> Tensor:
        """Phi' Phi v for v (m, 1)."""

    @abstractmethod
    def of_gates(self, kept: Tensor) -> Products:
        """The same images and only some gates, by their indices."""


class ProductsInMemory(Products):
    """All of Phi in float64; of several processes, each has the rows of its own images."""

    def __init__(
        self,
        phi: Tensor,
        targets: Tensor,
        shape: tuple[int, int, int],
        processes: Processes = ALONE,
    ) -> None:
        self.phi, self.targets, self.shape, self.dtype = phi, targets, shape, phi.dtype
        self.processes = processes

    @classmethod
    def of(cls, program: Program, processes: Processes = ALONE) -> ProductsInMemory:
        return cls(program.features, program.targets, program.shape[1:], processes)

    def totals(self) -> ImageTotals:
        cross = self.targets.T @ self.phi
        return ImageTotals.of(self.targets, cross, self.phi.sum(0), self.processes)

    def measure(self, loss: Loss, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.phi @ weights.T + bias
        negative = -loss.gradient(scores, self.targets)
        pulled = negative.T @ self.phi
        self.processes.add_up(pulled)
        return scores, negative, pulled

    def gram_times(self, vector: Tensor) -> Tensor:
        out = self.phi.T @ (self.phi @ vector)
        self.processes.add_up(out)
        return out

    def of_gates(self, kept: Tensor) -> ProductsInMemory:
        cells, _, d = self.shape
        phi = self.phi.view(len(self.phi), *self.shape)[:, :, kept].flatten(1)
        return ProductsInMemory(phi, self.targets, (cells, len(kept), d), self.processes)


class StreamedProducts(Products):
    """Phi made again, block by block, for every product; weights and slopes are float64."""

    def __init__(self, features: GatedFeatures, streams: Sequence[ImageStream]) -> None:
        self.features, self.streams = features, streams
        self.shape, self.dtype = features.shape, torch.float64

    def totals(self) -> ImageTotals:
        return image_totals(self.features, self.streams)

    def measure(self, loss: Loss, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pull_back(self.features, self.streams, loss, weights, bias)

    def gram_times(self, vector: Tensor) -> Tensor:
        out = torch.zeros_like(vector)
        for _, phi, _ in feature_blocks(self.features, self.streams):
            phi = phi.to(vector.dtype)
            out.addmm_(phi.T, phi @ vector)
        self.streams[0].processes.add_up(out)
        return out

    def of_gates(self, kept: Tensor) -> StreamedProducts:
        return StreamedProducts(self.features.restricted(kept), self.streams)
