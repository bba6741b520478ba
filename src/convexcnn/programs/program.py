"""The convex programs (G) and (R) of one block with everything in memory, in float64.

(G)  minimise (1/n) loss( sum_i Phi_i V_i + b, Y ) + beta R(V)
(R)  minimise (1/n) loss( sum_i Phi_i (V_i - W_i) + b, Y ) + beta (R(V) + R(W))
     subject to (2 D_i(x) - 1) x . v_ic >= 0, and the same for w_ic, for every training patch x

With max pooling a gate takes of every cell only the patch with its largest response, if that is
not negative, and (R) has other inequalities: see :mod:`.inequalities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.inequalities import Inequalities, taken_patches
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import Loss, get_loss
from convexcnn.programs.regularisers import Regulariser, get_regulariser

BLOCK = 256


@dataclass(frozen=True)
class Program:
    """One convex program over the gates of a block.

    Args:
        patches: (n, cells, q, d); places without a patch are zero. For average pooling they are
            divided by the number of patches in their cell, so that sums over q are averages.
        gates: (g, d).
        targets: Y, (n, k); one-hot for cross-entropy.
        beta: weight of the regulariser, > 0.
        loss: ``squared`` or ``cross_entropy``.
        regulariser: ``l2``, ``group``, or ``nuclear`` (gated only).
        formulation: ``gated`` for (G), ``relu`` for (R). In (R) every class and cell has filters
            of its own, and their cones are those of the patches in that cell.
        intercept: whether there is a b, which is not penalised.
        pooling: ``average`` or ``max`` of the responses in a cell.

    Raises:
        SettingError: a combination that has no program.
    """

    patches: Tensor
    gates: Tensor
    targets: Tensor
    beta: float
    loss: str = "squared"
    regulariser: str = "group"
    formulation: str = "gated"
    intercept: bool = True
    pooling: str = "average"

    def __post_init__(self) -> None:
        _ = self.kind
        if not self.beta > 0:
            raise SettingError(f"beta is {self.beta}; give a positive number")

    @property
    def kind(self) -> ProgramKind:
        """The program without its data and beta."""
        return ProgramKind(
            self.formulation, self.regulariser, self.loss, self.intercept, self.pooling
        )

    @classmethod
    def from_streams(
        cls,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        beta: float,
    ) -> Program:
        """Gather the patches of streams in memory.

        Args:
            kind: which program.
            features: geometry, transform and gates.
            streams: training images.
            beta: weight of the regulariser, > 0.

        Raises:
            SettingError: if the features pool otherwise than the program.
        """
        if features.pool != kind.pooling:
            raise SettingError(
                f"pooling {kind.pooling} of the program is not the {features.pool} pooling of the "
                f"features; make them with GatedFeatures(..., pool={kind.pooling!r})"
            )
        cells = features.geometry.n_cells
        patches, targets = [], []
        for stream in streams:
            for images, block_targets in stream.blocks(BLOCK):
                pooled = features.pooling(images)
                pooled = pooled.view(len(images), cells, -1, pooled.shape[-1])
                patches.append(pooled.double().cpu())
                targets.append(block_targets.double().cpu())
        return cls(
            torch.cat(patches),
            features.gates.double().cpu(),
            torch.cat(targets),
            beta,
            kind.loss,
            kind.regulariser,
            kind.formulation,
            kind.intercept,
            kind.pooling,
        )

    def at(self, beta: float) -> Program:
        """The same program at another beta, with what was computed already."""
        other = replace(self, beta=beta)
        for name in ("on", "features", "inequalities"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(k, cells, g, d), the shape of V."""
        return self.targets.shape[1], self.patches.shape[1], *self.gates.shape

    @property
    def loss_function(self) -> Loss:
        return get_loss(self.loss)

    @property
    def regulariser_function(self) -> Regulariser:
        return get_regulariser(self.regulariser)

    @cached_property
    def on(self) -> Tensor:
        """D, (n, cells, q, g): 1 where a gate is on for a patch and takes it, else 0."""
        return taken_patches(self.patches, self.gates, self.pooling)

    @cached_property
    def features(self) -> Tensor:
        """Phi, (n, cells g d)."""
        return torch.einsum("ncqg,ncqd->ncgd", self.on, self.patches).flatten(1)

    @cached_property
    def inequalities(self) -> Inequalities:
        """C v >= 0, what (R) asks of the filters of every gate and cell."""
        return Inequalities.of(self.patches, self.on, self.pooling)

    def scores(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Return the scores (n, k) of weights (k, cells, g, d), or (2, k, cells, g, d) for (R)."""
        linear = weights[0] - weights[1] if self.formulation == "relu" else weights
        return self.features @ linear.flatten(1).T + bias

    def objective(self, weights: Tensor, bias: Tensor) -> float:
        """Return the objective; the cones of (R) are not looked at."""
        scores = self.scores(weights, bias)
        loss = float(self.loss_function.value(scores, self.targets)) / len(scores)
        parts = weights if self.formulation == "relu" else weights[None]
        return loss + self.beta * sum(float(self.regulariser_function.value(w)) for w in parts)
