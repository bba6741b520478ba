"""Stochastic gradient descent on any block program: the paper's solver, and the baseline's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from convexcnn.data.arguments import check_whole
from convexcnn.errors import SettingError
from convexcnn.patches.float32 import LARGEST
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.block import BatchStatistics, BlockProgram, own_parts
from convexcnn.solvers.result import Callback

METHODS = ("sgd", "adam")
NUMBERS = (int, float, np.integer, np.floating)


@dataclass(frozen=True)
class SGD:
    """Mini-batch descent on the mean loss plus the regulariser.

    Args:
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: applied to the mean over the batch of the loss summed over classes.
        momentum: heavy-ball momentum, as ``torch.optim.SGD`` defines it.
        method: ``"sgd"``, or ``"adam"`` with a one-cycle learning rate.
        log_every: steps between two events.

    Raises:
        SettingError: a value that cannot work.
    """

    epochs: int = 100
    batch_size: int = 1000
    learning_rate: float = 1e-3
    momentum: float = 0.9
    method: str = "sgd"
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every"):
            check_whole(name, getattr(self, name), 1)
        rate: Any = self.learning_rate
        momentum: Any = self.momentum
        if not isinstance(rate, NUMBERS) or not 0 <= rate <= LARGEST:
            raise SettingError(f"learning_rate is {rate!r}; give a positive number that is finite")
        if not isinstance(momentum, NUMBERS) or not 0 <= momentum < 1:
            raise SettingError(f"momentum is {momentum!r}; give a number from 0 to below 1")
        if self.method not in METHODS:
            raise SettingError(
                f"method {self.method!r} is not known; choose one of {', '.join(METHODS)}"
            )

    def solve(
        self,
        program: BlockProgram,
        stream: ImageStream,
        *,
        generator: torch.Generator,
        callback: Callback | None = None,
        **labels: Any,
    ) -> list[dict[str, Any]]:
        """Descend from where the program's parameters are, changing them in place.

        Args:
            program: what is minimised.
            stream: training images.
            generator: order of the mini-batches.
            callback: called with every event.
            labels: added to every event.

        Returns:
            The events: step, epoch, seconds, and training loss and accuracy averaged over the
            mini-batches since the last event, each measured before its step.

        Raises:
            SettingError: if the loss is no longer finite: the learning rate is too large.
        """
        steps = self.epochs * -(-len(stream.images) // self.batch_size)
        optimiser, schedule = self._optimiser(program, steps)
        share = partial(own_parts, stream.processes)
        events: list[dict[str, Any]] = []
        seen, step, start = BatchStatistics(), 0, time.perf_counter()
        for _ in range(self.epochs):
            left = len(stream.images)
            for images, targets in stream.shuffled(self.batch_size, generator, share=share):
                batch = min(self.batch_size, left)
                left -= batch
                program.batch_gradient(images, targets, seen, stream.processes, batch)
                optimiser.step()
                if schedule is not None:
                    schedule.step()
                step += 1
                if step % self.log_every and step != steps:
                    continue
                seen.add_up(stream.processes)
                means = seen.means()
                if not means["loss"] < 1e6:
                    raise SettingError(
                        f"the loss diverged at step {step}; choose a learning_rate below "
                        f"{self.learning_rate:g}"
                    )
                event = {
                    **labels,
                    "step": step,
                    "steps": steps,
                    "epoch": step * self.epochs / steps,
                    "seconds": time.perf_counter() - start,
                    "train_loss": means["loss"],
                    "train_accuracy": means["accuracy"],
                }
                events.append(event)
                seen = BatchStatistics()
                if callback is not None:
                    callback(event)
        return events

    def _optimiser(
        self, program: BlockProgram, steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        program.zero_grad()
        if self.method == "sgd":
            rate, momentum = self.learning_rate, self.momentum
            return torch.optim.SGD(program.parameters, lr=rate, momentum=momentum), None
        adam = torch.optim.Adam(program.parameters, lr=self.learning_rate)
        # Torch divides by the number of steps after the first of the warm-up, here 0 of 5.
        warm_up = 0.2 if steps != 5 else 0.4
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(
            adam, self.learning_rate, total_steps=steps, pct_start=warm_up
        )
        return adam, one_cycle
