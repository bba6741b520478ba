"""The gated program with a nuclear norm, factored: V_i = U_i W_i' (Burer & Monteiro 2003)."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.programs.block import BatchStatistics, BlockProgram, gradient_of
from convexcnn.programs.losses import Loss
from convexcnn.programs.regularisers import gate_matrices

NOISE = 1e-2
"""Size of random factors, small beside a solution and large enough to leave the saddle at 0."""


class FactoredProgram(BlockProgram):
    """minimise (1/n) loss(Phi V + b, Y) + (beta/2) sum_i (|U_i|^2 + |W_i|^2),  V_i = U_i W_i'.

    Because |V_i|_* is the smallest (|U|^2 + |W|^2) / 2 with V_i = U W', its global minimum is that
    of (G) with the nuclear norm, if the factors have as many columns as an optimal V_i has rank
    (Sahiner et al. 2024). It is smooth, and no step needs singular values, but it is not convex.

    Args:
        features: the operator Phi.
        n_classes: k.
        loss: squared or cross-entropy.
        rank: columns r of the factors.
        beta: weight of the regulariser.
        intercept: whether b is a variable; otherwise it stays zero.
        generator: source of the starting point.
    """

    formulation = "gated"

    def __init__(
        self,
        features: GatedFeatures,
        n_classes: int,
        loss: Loss,
        *,
        rank: int,
        beta: float = 0.0,
        intercept: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self.features = features
        self.loss = loss
        self.beta = beta
        self.intercept = intercept
        cells, gates, dim = features.shape

        def noise(*shape: int) -> Tensor:
            return NOISE * torch.randn(*shape, generator=generator).to(features.gates)

        self.left = noise(gates, dim, rank)
        """U, (g, d, r)."""
        self.right = noise(n_classes, cells, gates, rank)
        """W, (k, cells, g, r)."""
        self.bias = features.gates.new_zeros(n_classes)
        """b, (k,)."""
        self._phi = features.gates.new_empty(features.block_size, features.n_features)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.left, self.right, self.bias]

    @property
    def block_size(self) -> int:
        return self.features.block_size

    @property
    def weights(self) -> Tensor:
        """V, (k, cells, g, d)."""
        return torch.einsum("gdr,kcgr->kcgd", self.left, self.right)

    def start_at(self, weights: Tensor, bias: Tensor) -> None:
        """Add the largest balanced factors of V (k, cells, g, d) to the noise, and take b."""
        left, values, right = torch.linalg.svd(gate_matrices(weights), full_matrices=False)
        rank = min(self.left.shape[2], values.shape[1])
        root = values[:, :rank].sqrt()
        self.left[..., :rank] += (left[..., :rank] * root[:, None]).to(self.left)
        heads = (right[:, :rank] * root[..., None]).permute(2, 0, 1)  # (k cells, g, r)
        self.right[..., :rank] += heads.reshape(*weights.shape[:3], rank).to(self.right)
        self.bias.copy_(bias)

    def refine(self) -> None:
        """Go on in float64: what descends by line search must tell small decreases from noise."""
        self.left, self.right = self.left.double(), self.right.double()
        self.bias = self.bias.double()

    def scores(self, images: Tensor) -> Tensor:
        phi = self.features(images, self._phi[: len(images)])
        return phi @ self.weights.flatten(1).T + self.bias

    def add_gradient(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        weights = self.weights.flatten(1)
        slopes = torch.zeros_like(weights)
        found = self._add_slopes(images, targets, weight, weights, slopes)
        self.pull_back(slopes)
        return found

    def add_part(
        self, images: Tensor, targets: Tensor, weight: float, seen: BatchStatistics
    ) -> None:
        """As every program's, but V is formed once, and its gradient pulled back once."""
        weights = self.weights.flatten(1)
        slopes = torch.zeros_like(weights)
        for start in range(0, len(images), self.block_size):
            rows = slice(start, start + self.block_size)
            loss, scores = self._add_slopes(images[rows], targets[rows], weight, weights, slopes)
            seen.add(loss, scores, targets[rows])
        self.pull_back(slopes)

    def _add_slopes(
        self, images: Tensor, targets: Tensor, weight: float, weights: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of one block by V (k, cells g d) to ``slopes``, and that by b."""
        phi = self.features(images, self._phi[: len(images)])
        scores = phi @ weights.T + self.bias
        residual = self.loss.gradient(scores, targets) * weight
        slopes.addmm_(residual.T, phi)
        if self.intercept:
            gradient_of(self.bias).add_(residual.sum(0))
        return self.loss.value(scores, targets), scores

    def pull_back(self, slopes: Tensor) -> None:
        """Add to the ``grad`` of U and W what a gradient by V, (k, cells g d), makes of them."""
        by_gate = slopes.view(*self.right.shape[:3], -1)
        gradient_of(self.left).add_(torch.einsum("kcgd,kcgr->gdr", by_gate, self.right))
        gradient_of(self.right).add_(torch.einsum("kcgd,gdr->kcgr", by_gate, self.left))

    def regularise(self) -> float:
        penalty = 0.0
        for factor in (self.left, self.right):
            gradient_of(factor).add_(factor, alpha=self.beta)
            penalty += 0.5 * self.beta * float(factor.square().sum())
        return penalty
