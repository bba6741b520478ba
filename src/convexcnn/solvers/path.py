"""A path of beta: who solves it, its default values, how every point does on held-out images."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.errors import DataError, SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.passes import feature_blocks, weighted_blocks
from convexcnn.solvers.result import Callback, PathPoint, Solution, best_point

TOLERANCE = 1e-6
"""Relative duality gap of the solution that is returned."""

PATH_TOLERANCE = 1e-5
"""Relative residual of the linear systems along a path, which only serves to choose beta."""

CHUNK = 2000
"""Rows of Phi that a solver holds in memory by default."""

PATH_VECTORS = 110
"""Vectors per class that a path holds at most: a Lanczos basis and a solution per beta."""

PATIENCE = 2
"""Points of a default path that may follow the best one before it ends."""

DEFAULT_PATH = tuple(10.0 ** (-3 + i / 3) for i in range(13))
"""Default betas, relative to the mean variance of a feature."""


class PathSolver(ABC):
    """Solves a whole path of beta exactly, and lets held-out images choose from it.

    Args:
        betas: weights of the regulariser to try; None for thirteen around the mean variance of a
            feature.
        tolerance: relative duality gap of the solution that is returned; a path of ridge
            regressions that it is chosen from is solved to PATH_TOLERANCE.
        chunk: rows of Phi held in memory.
        refit: whether the solution at the beta that was chosen uses the held-out images too; if
            not, they have had no part in it but that choice.
    """

    name: str
    shares_images: bool = False
    """Whether several processes can solve together, each with its own images."""

    def __init__(
        self,
        betas: Sequence[float] | None = None,
        *,
        tolerance: float = TOLERANCE,
        chunk: int = CHUNK,
        refit: bool = True,
    ) -> None:
        self.betas = betas
        self.ends_early = betas is None
        """Whether a solver that takes beta after beta ends once held-out images have had enough."""
        self.tolerance = tolerance
        self.chunk = chunk
        self.refit = refit

    def __repr__(self) -> str:
        """As it was made: the arguments that are not left at their defaults."""
        given = inspect.signature(type(self)).parameters.values()
        told = [f"{p.name}={getattr(self, p.name)!r}" for p in given if self._tells(p)]
        return f"{type(self).__name__}({', '.join(told)})"

    def _tells(self, argument: inspect.Parameter) -> bool:
        value = getattr(self, argument.name, argument.default)
        return bool(np.any(value != argument.default))

    @abstractmethod
    def solve(
        self,
        features: GatedFeatures,
        train: ImageStream,
        validation: ImageStream | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve the path on ``train``, choose beta on ``validation``, and solve it on both.

        Without ``refit``, the solution is that on ``train``.

        Args:
            features: the operator Phi.
            train: training images.
            validation: held-out images; None skips the choice, which needs one beta.
            callback: called with one event per phase.

        Returns:
            The solution at the chosen beta.

        Raises:
            SettingError: betas that are not positive, or several without ``validation``; or
                several processes, if they cannot share the images of this solver.
        """

    def handles(self, kind: ProgramKind) -> bool:
        """Whether this solver can solve programs of a kind; ridge regression, unless it says so."""
        return kind.is_ridge

    def _has_enough(self, path: list[PathPoint], validation: ImageStream) -> bool:
        """Whether the best of the points so far lies so far back that the path ends here."""
        best = best_point(path, len(validation.labels))
        return self.ends_early and path.index(best) < len(path) - PATIENCE

    def _check_choice(self, train: ImageStream, validation: ImageStream | None) -> None:
        betas = self.betas
        if betas is not None and not (betas and all(0 < beta < math.inf for beta in betas)):
            raise SettingError(f"betas is {betas}; give positive numbers")
        if validation is None and (betas is None or len(betas) > 1):
            raise SettingError(
                f"betas is {betas}, and no held-out images are there to choose by; give one beta"
            )
        if train.processes.size > 1 and not self.shares_images:
            raise SettingError(
                f"solver {self.name} needs all images in one process, and {train.processes.size} "
                "share them; choose another solver, or start it without torchrun"
            )


def relative_path(
    betas: Sequence[float] | None, total_variance: float, features: GatedFeatures
) -> list[float]:
    """Return the betas asked for, or the default ones.

    Args:
        betas: absolute values; None for the default path.
        total_variance: mean of |phi - mean phi|^2 over the images.
        features: the operator Phi.
    """
    if betas is not None:
        return [float(beta) for beta in betas]
    check_spread(total_variance)
    variance = total_variance / features.n_features
    return [variance * relative for relative in DEFAULT_PATH]


def check_spread(scale: float) -> None:
    """Refuse features that no default betas follow from.

    Args:
        scale: their variance, or the beta from which on all weights are zero.

    Raises:
        DataError: it is not positive.
    """
    if not scale > 0:
        raise DataError(
            "the features of all training images are the same, so that there is nothing to learn; "
            "check that the images are not constant, or choose other gates"
        )


def squared_measures(
    scores: Tensor, targets: Tensor, weights: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Mean squared loss and accuracy of scores (n, k) against one-hot targets (n, k).

    Args:
        scores: F.
        targets: Y.
        weights: (n,) of the images; None where all weigh one.
    """
    each = torch.ones_like(scores[:, 0]) if weights is None else torch.from_numpy(weights)
    each = each.to(scores)
    correct = (scores.argmax(1) == targets.argmax(1)).to(scores)
    return {
        "loss": float(0.5 * (each @ (scores - targets).square()).sum() / each.sum()),
        "accuracy": float(each @ correct / each.sum()),
    }


def scores_of(
    features: GatedFeatures, stream: ImageStream, weights: Tensor, bias: Tensor
) -> Tensor:
    """Return the scores (n, k) of weights (n_features, k) on the images, not mirrored."""
    plain = stream.plain()
    scores = weights.new_empty(plain.size, len(bias))
    for rows, phi, _ in feature_blocks(features, [plain]):
        torch.addmm(bias, phi, weights, out=scores[rows])
    return plain.gather(scores)


def measure_path(
    features: GatedFeatures,
    stream: ImageStream,
    weights: Tensor,
    biases: Tensor,
    path: list[PathPoint],
) -> None:
    """Write the squared loss and accuracy on held-out images into every point of a path.

    Args:
        features: the operator Phi.
        stream: held-out images; their mirror images are left out.
        weights: (s, n_features, k), one solution per point.
        biases: (s, k).
        path: s points.
    """
    s, _, k = weights.shape
    stacked = weights.permute(1, 0, 2).reshape(-1, s * k)
    loss, correct = weights.new_zeros(s), weights.new_zeros(s)
    plain = stream.plain()
    for _, phi, targets, root in weighted_blocks(features, [plain]):
        scores = (phi @ stacked).view(-1, s, k) + root[:, :, None] * biases
        loss += 0.5 * (scores - targets[:, None]).square().sum((0, 2))
        right = scores.argmax(2) == targets.argmax(1)[:, None]
        correct += root[:, 0].square() @ right.to(root)
    stream.processes.add_up(loss, correct)
    for point, point_loss, point_correct in zip(path, loss, correct, strict=True):
        point.validation["loss"] = float(point_loss) / plain.total
        point.validation["accuracy"] = float(point_correct) / plain.total
