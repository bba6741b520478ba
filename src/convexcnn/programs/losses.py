"""Losses of the programs: convex in the scores, with the gradient that every solver needs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from convexcnn.errors import SettingError


class Loss(ABC):
    """A convex loss, summed over images and classes; programs divide by the number of images."""

    name: str

    @abstractmethod
    def value(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of scores (n, k) against one-hot targets (n, k), a scalar."""

    @abstractmethod
    def gradient(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of :meth:`value` by the scores, (n, k)."""


class SquaredLoss(Loss):
    """(1/2) sum |F - Y|^2 over images and classes; predicting zero scores 1/2 per image."""

    name = "squared"

    def value(self, scores: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (scores - targets).square().sum()

    def gradient(self, scores: Tensor, targets: Tensor) -> Tensor:
        return scores - targets


class CrossEntropyLoss(Loss):
    """sum of log sum_c exp(f_c) - y . f over images."""

    name = "cross_entropy"

    def value(self, scores: Tensor, targets: Tensor) -> Tensor:
        return torch.logsumexp(scores, 1).sum() - (scores * targets).sum()

    def gradient(self, scores: Tensor, targets: Tensor) -> Tensor:
        # torch.softmax takes four times as long where the scores of a class are contiguous
        chances = (scores - torch.logsumexp(scores, 1, keepdim=True)).exp_()
        return chances - targets


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (SquaredLoss, CrossEntropyLoss)}


def get_loss(name: str) -> Loss:
    """Return the loss called ``name``; SettingError if there is none."""
    if name not in LOSSES:
        raise SettingError(f"loss {name!r} is not known; choose one of {', '.join(LOSSES)}")
    return LOSSES[name]()
