"""What a trainable block offers a solver: parameters, scores, and one pass of its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.programs.losses import Loss

PARTS = 8
"""Parts of a mini-batch: so many processes can share a descent."""


@dataclass
class BatchStatistics:
    """Sums over the images seen so far: training loss and correct predictions."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0

    def add(self, loss: Tensor, scores: Tensor, targets: Tensor) -> None:
        self.loss += float(loss)
        self.correct += int((scores.argmax(1) == targets.argmax(1)).sum())
        self.images += len(scores)

    def add_up(self, processes: Processes) -> None:
        """Count what the other processes have seen too."""
        self.loss = processes.total(self.loss)
        self.correct = round(processes.total(self.correct))
        self.images = round(processes.total(self.images))

    def means(self) -> dict[str, float]:
        return {"loss": self.loss / self.images, "accuracy": self.correct / self.images}


def own_parts(processes: Processes, images: int) -> slice:
    """The images of a mini-batch that are in the parts of this process."""
    parts = processes.share(PARTS)
    return slice(parts.start * images // PARTS, parts.stop * images // PARTS)


def gradient_of(parameter: Tensor) -> Tensor:
    """The ``grad`` that :meth:`BlockProgram.zero_grad` made."""
    assert parameter.grad is not None, "zero_grad comes first"
    return parameter.grad


class BlockProgram(ABC):
    """minimise (1/n) loss(F(parameters), Y) + beta R(parameters) over the parameters.

    A subclass walks through a batch in blocks that fit the processor's cache and adds the exact
    gradient to the ``grad`` of its parameters: two-layer networks need no tape.
    """

    formulation: str
    loss: Loss
    beta: float

    @property
    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The variables, in a fixed order; the first axes are documented by the subclass."""

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Images per cache-sized block."""

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Return the scores (n, k) of one block of scaled images (n, channels, height, width)."""

    @abstractmethod
    def add_gradient(self, images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Add ``weight`` times the gradient of the summed loss of one block to the ``grad``s.

        Returns:
            the summed loss, a scalar, and the scores (n, k).
        """

    @abstractmethod
    def regularise(self) -> float:
        """Add the gradient of beta R to the ``grad``s and return beta R."""

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def add_part(
        self, images: Tensor, targets: Tensor, weight: float, seen: BatchStatistics
    ) -> None:
        """Add ``weight`` times the gradient of the summed loss of a part to the ``grad``s."""
        for start in range(0, len(images), self.block_size):
            rows = slice(start, start + self.block_size)
            loss, scores = self.add_gradient(images[rows], targets[rows], weight)
            seen.add(loss, scores, targets[rows])

    def batch_gradient(
        self,
        images: Tensor,
        targets: Tensor,
        seen: BatchStatistics,
        processes: Processes = ALONE,
        batch: int | None = None,
    ) -> None:
        """Set the ``grad``s to the gradient of the mean loss of a batch plus beta R.

        A batch always falls into the same parts, whose gradients are added in order: the bits do
        not depend on how many processes share the parts.

        Args:
            images: (n, channels, height, width) scaled images, of this process's own parts.
            targets: (n, k) one-hot.
            seen: receives the loss (without the regulariser) and the correct predictions.
            processes: that share the parts of a batch.
            batch: images in all parts; None if one process has them all.
        """
        batch = len(images) if batch is None else batch
        first = own_parts(processes, batch).start
        together = processes.size > 1
        size = sum(p.numel() for p in self.parameters)
        sums = self.parameters[0].new_zeros(PARTS if together else 1, size)
        for part in range(PARTS)[processes.share(PARTS)]:
            self.zero_grad()
            rows = slice(part * batch // PARTS - first, (part + 1) * batch // PARTS - first)
            self.add_part(images[rows], targets[rows], 1 / batch, seen)
            flat = torch.cat([gradient_of(p).flatten() for p in self.parameters])
            sums[part if together else 0] += flat
        processes.add_up(sums)
        for later in sums[1:]:
            sums[0] += later
        shares = torch.split(sums[0], [p.numel() for p in self.parameters])
        for parameter, share in zip(self.parameters, shares, strict=True):
            gradient_of(parameter).copy_(share.view_as(parameter))
        self.regularise()
