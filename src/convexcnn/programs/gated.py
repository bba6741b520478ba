"""The gated convex program (G) of a two-layer CNN."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.programs.block import BlockProgram, gradient_of
from convexcnn.programs.losses import Loss


class GatedProgram(BlockProgram):
    """minimise (1/n) loss(Phi V + b, Y) + (beta/2) |V|^2.

    Eq. (3) of Chang & Lee as printed, without its cone constraint; (G) of Mishkin, Sahiner &
    Pilanci 2022. The intercept b is not penalised.

    Args:
        features: the operator Phi.
        n_classes: k.
        loss: squared or cross-entropy.
        beta: weight of the regulariser.
    """

    formulation = "gated"

    def __init__(
        self,
        features: GatedFeatures,
        n_classes: int,
        loss: Loss,
        *,
        beta: float = 0.0,
    ) -> None:
        self.features = features
        self.loss = loss
        self.beta = beta
        self.weights = features.gates.new_zeros(n_classes, features.n_features)
        """V, (k, cells * g * d): one row per class."""
        self.bias = features.gates.new_zeros(n_classes)
        """b, (k,)."""
        self._phi = features.gates.new_empty(features.block_size, features.n_features)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weights, self.bias]

    @property
    def block_size(self) -> int:
        return self.features.block_size

    def _features(self, images: Tensor) -> Tensor:
        return self.features(images, self._phi[: len(images)])

    def scores(self, images: Tensor) -> Tensor:
        return self._features(images) @ self.weights.T + self.bias

    def add_gradient(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        phi = self._features(images)
        scores = phi @ self.weights.T + self.bias
        residual = self.loss.gradient(scores, targets) * weight
        gradient_of(self.weights).addmm_(residual.T, phi)
        gradient_of(self.bias).add_(residual.sum(0))
        return self.loss.value(scores, targets), scores

    def regularise(self) -> float:
        if not self.beta:
            return 0.0
        gradient_of(self.weights).add_(self.weights, alpha=self.beta)
        return 0.5 * self.beta * float(self.weights.square().sum())


class PenalisedConeProgram(BlockProgram):
    """(G) for ReLU networks with the cone constraint of (R) turned into a penalty.

    minimise (1/n) loss(Phi (V - W), Y) + (beta/2) (|V|^2 + |W|^2)
             + (rho/n) sum over images, cells, gates, classes of
                       (1/q) sum_{l in cell} (-(2 D - 1) x_l . v)_+, and the same for w

    This is what public convex-ReLU codes train with SGD. It is convex, but it is *not* program
    (R): its minimiser may leave the cones by a little for every finite rho, and then the recovered
    ReLU network computes something else. Forming X V for all gates and classes makes it about 4k
    times as dear as :class:`GatedProgram`; it is here for comparison on small problems.

    Args:
        features: the operator Phi.
        n_classes: k.
        loss: squared or cross-entropy.
        beta: weight of the regulariser.
        rho: weight of the penalty.

    Raises:
        SettingError: with max pooling, whose cones are others.
    """

    formulation = "relu-penalised"

    def __init__(
        self,
        features: GatedFeatures,
        n_classes: int,
        loss: Loss,
        *,
        beta: float = 0.0,
        rho: float = 0.01,
    ) -> None:
        if features.pool != "average":
            raise SettingError(
                "the penalised cones are those of average pooling; for max pooling solve "
                "formulation relu with solver interior-point"
            )
        self.features = features
        self.loss = loss
        self.beta = beta
        self.rho = rho
        self.weights = features.gates.new_zeros(2, n_classes, features.n_features)
        """V and W, (2, k, cells * g * d)."""

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weights]

    @property
    def block_size(self) -> int:
        return max(1, self.features.block_size // (2 * self.weights.shape[1]))

    def scores(self, images: Tensor) -> Tensor:
        return self.features(images) @ (self.weights[0] - self.weights[1]).T

    def violation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed violation of the cones, a scalar, and its gradient by V and W."""
        n, (cells, gates, dim) = len(images), self.features.shape
        patches = self.features.pooling(images).view(n, cells, -1, dim)
        sign = 2 * (patches @ self.features.gates.T >= 0).to(patches.dtype) - 1
        weights = self.weights.view(*self.weights.shape[:2], cells, gates, dim)
        product = torch.einsum("nclx,skcgx->nclgsk", patches, weights) * sign[..., None, None]
        outside = torch.where(product < 0, -sign[..., None, None], 0.0)
        gradient = torch.einsum("nclgsk,nclx->skcgx", outside, patches)
        return -product.clamp_max(0).sum(), gradient.reshape(self.weights.shape)

    def add_gradient(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        phi = self.features(images)
        scores = phi @ (self.weights[0] - self.weights[1]).T
        gradient = (self.loss.gradient(scores, targets) * weight).T @ phi
        gradient_of(self.weights).add_(torch.stack([gradient, -gradient]))
        if self.rho:
            gradient_of(self.weights).add_(self.violation(images)[1], alpha=self.rho * weight)
        return self.loss.value(scores, targets), scores

    def regularise(self) -> float:
        gradient_of(self.weights).add_(self.weights, alpha=self.beta)
        return 0.5 * self.beta * float(self.weights.square().sum())
