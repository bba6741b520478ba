"""The non-convex program (P): Conv2D - ReLU - average pool - Linear."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import CACHE_BYTES, PatchPooling
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.block import BlockProgram, gradient_of
from convexcnn.programs.losses import Loss


class ReluProgram(BlockProgram):
    """minimise (1/n) loss(F, Y) + (beta/2) sum_j (|u_j|^2 + |w_j|^2),
    F(x) = sum_j w_j (1/q) sum_{l in cell} (x_l . u_j)_+ + b, filters shared by all classes.

    Filters and head start as He et al. 2015 propose: normal with variance 2 / fan-in.

    Args:
        geometry: where patches and pooling cells lie.
        transform: raw patch -> d coordinates.
        n_filters: m.
        n_classes: k.
        loss: squared or cross-entropy.
        beta: weight of the regulariser (weight decay).
        generator: source of the starting point.
    """

    formulation = "non-convex"

    def __init__(
        self,
        geometry: PatchGeometry,
        transform: PatchTransform,
        n_filters: int,
        n_classes: int,
        loss: Loss,
        *,
        beta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.pooling = PatchPooling(geometry, transform)
        self.geometry = geometry
        self.transform = transform
        self.loss = loss
        self.beta = beta

        def normal(*shape: int) -> Tensor:
            draw: Tensor = torch.randn(*shape, generator=generator) * (2 / shape[1]) ** 0.5
            return draw.to(transform.mean.device)

        self.filters = normal(n_filters, transform.dim)
        """U, (m, d) in transformed coordinates."""
        self.head = normal(n_classes, geometry.n_cells * n_filters)
        """w, (k, cells * m)."""
        self.bias = self.filters.new_zeros(n_classes)
        """b, (k,)."""
        self._work = self.filters.new_empty(0)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.filters, self.head, self.bias]

    @property
    def block_size(self) -> int:
        return max(4, CACHE_BYTES // (4 * self.geometry.cell_order.numel() * len(self.filters)))

    def _activations(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (n*p, d), ReLU responses (n, cells, q, m) and pooled responses (n, cells*m)."""
        patches = self.pooling(images)
        n, m, cells = len(images), len(self.filters), self.geometry.n_cells
        flat = patches.reshape(-1, patches.shape[-1])
        if self._work.numel() < len(flat) * m:
            self._work = flat.new_empty(len(flat) * m)
        responses = self._work[: len(flat) * m].view(len(flat), m)
        torch.mm(flat, self.filters.T, out=responses)
        responses = responses.clamp_min_(0).view(n, cells, -1, m)
        return flat, responses, responses.sum(2).view(n, -1)

    def scores(self, images: Tensor) -> Tensor:
        return self._activations(images)[2] @ self.head.T + self.bias

    def add_gradient(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        flat, responses, pooled = self._activations(images)
        scores = pooled @ self.head.T + self.bias
        residual = self.loss.gradient(scores, targets) * weight
        filters, head, bias = (gradient_of(p) for p in self.parameters)
        head.addmm_(residual.T, pooled)
        bias += residual.sum(0)
        back = (residual @ self.head).view(len(images), self.geometry.n_cells, 1, -1)
        torch.gt(responses, 0, out=responses)
        responses.mul_(back)
        filters.addmm_(responses.view(len(flat), -1).T, flat)
        return self.loss.value(scores, targets), scores

    def regularise(self) -> float:
        if not self.beta:
            return 0.0
        penalty = 0.0
        for parameter in (self.filters, self.head):
            gradient_of(parameter).add_(parameter, alpha=self.beta)
            penalty += 0.5 * self.beta * float(parameter.square().sum())
        return penalty
