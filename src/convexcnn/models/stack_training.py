"""How a stack is trained: block after block, each on the frozen maps of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.models.block_checkpoint import BlockCheckpoint
from convexcnn.models.block_kinds import TRAINERS
from convexcnn.models.block_training import (
    BlockOutcome,
    BlockTask,
    Split,
    block_solver,
    measure,
    problem_size,
    sizes_of,
)
from convexcnn.models.frozen_maps import MapStream, freeze_maps, map_bytes
from convexcnn.models.head_combination import choose_heads, combination_loss
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.neuron_network import BATCH
from convexcnn.models.neuron_training import spread
from convexcnn.models.probabilities import fit_temperature
from convexcnn.models.stack_settings import Block, plan_geometries
from convexcnn.models.time_plan import TimePlan
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.models.warm_start import KeptBlocks, certified
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback, PhaseClock


@dataclass(frozen=True)
class TrainedStack:
    """What a training gives.

    Args:
        blocks: B of them; fewer than asked for if the budget was too short.
        head_weights: (B,) not negative, of sum one.
        heads: (B, n, k) scores of all images by every block's own head.
        scores: (held out, k) of the images that are held out, by all heads together.
    """

    blocks: list[TrainedBlock]
    head_weights: Tensor
    heads: Tensor
    scores: Tensor


@dataclass(frozen=True)
class StackTraining:
    """The training of a stack.

    Args:
        blocks: settings.
        pixels: all images, with the views that descent draws from. Programs see two at most.
        split: which of them train.
        plan: how the budget is shared.
        memory: how the memory is shared.
        checkpoint: where finished blocks are kept, if they are.
        certificates: whether every block is certified as soon as it is trained.
        callback: called with every event, which says what block it is of.
        kept: blocks of an earlier training that come first, and are not trained again.
    """

    blocks: Sequence[Block]
    pixels: ImageStream
    split: Split
    plan: TimePlan
    memory: MemoryPlan
    checkpoint: BlockCheckpoint | None
    certificates: bool
    callback: Callback | None = None
    kept: KeptBlocks = field(default_factory=KeptBlocks)

    def run(self, generator: torch.Generator) -> TrainedStack:
        """Train all blocks that there is time for, after those that are finished already."""
        seeds = torch.randint(2**62, (len(self.blocks),), generator=generator).tolist()
        labels = self.pixels.labels[self.split.held_out]
        stream, trained, heads = self.pixels.paired(), list[TrainedBlock](), list[Tensor]()
        weights, together = torch.ones(1, dtype=torch.float64), torch.empty(0)
        for number, seed in enumerate(seeds, 1):
            outcome = self._finished(number, stream)
            finished = outcome is not None
            if outcome is None:
                outcome = self._train(tuple(trained), stream, seed)
            found = outcome.block
            heads.append(outcome.scores.cpu())
            held_out = torch.stack(heads)[:, torch.from_numpy(self.split.held_out)]
            loss = combination_loss([earlier.loss for earlier in self.blocks[:number]])
            weights = choose_heads(held_out, labels, loss)
            together = torch.einsum("b,bnk->nk", weights.float(), held_out)
            if not found.kept:
                found.measures["stack"] = _calibrated(together, labels, loss)
            last = number == len(self.blocks) or not self._goes_on(number + 1)
            if not last:
                found, stream = self._hand_on(number, replace(outcome, block=found), stream)
            if self.checkpoint is not None and not finished:
                self.checkpoint.save(number, found, outcome.scores)
            trained.append(found.without_maps() if last else found)
            del outcome
            if last:
                break
        return TrainedStack(trained, weights, torch.stack(heads), together)

    def _finished(self, number: int, stream: ImageStream) -> BlockOutcome | None:
        """A block that an earlier training made, or this one before it was interrupted."""
        if number <= len(self.kept):
            told = self._callback_of(number)
            rows, asked = self.split.kept, self.certificates
            return self.kept.outcome(number, stream, rows, told, certificate=asked)
        if self.checkpoint is None:
            return None
        outcome = self.checkpoint.load(number, self.blocks[number - 1], stream)
        if outcome is None:
            return None
        self.plan.spent += sum(outcome.block.seconds.values())
        block = outcome.block if self.certificates else replace(outcome.block, certificate=None)
        if self.certificates and block.certificate is None:
            clock = PhaseClock(self._callback_of(number))
            block = certified(block, stream, self.split.kept)
            clock.lap("certificate")
            block = replace(block, seconds=block.seconds | clock.seconds)
        return replace(outcome, block=block)

    def _train(
        self, earlier: tuple[TrainedBlock, ...], stream: ImageStream, seed: int
    ) -> BlockOutcome:
        """Train the next block on the maps that it sees."""
        number = len(earlier) + 1
        block, checkpoint = self.blocks[number - 1], self.checkpoint
        batch = min(BATCH, len(self.split.kept))

        def steps(default: int) -> int:
            known = checkpoint.planned(number) if checkpoint else None
            found = known or self.plan.steps(number, default, batch)
            found = int(stream.processes.tell(b"%d" % found))  # clocks differ
            if checkpoint is not None and known is None:
                checkpoint.plan(number, found)
            return found

        timed = self.plan.minutes is not None
        if checkpoint is not None and timed and not block.descends and not checkpoint.begun(number):
            checkpoint.plan(number, 1)  # its settings say how long it is trained

        task = BlockTask(
            block,
            self.pixels,
            earlier,
            stream,
            self.split,
            torch.Generator().manual_seed(seed),
            last=number == len(self.blocks),
            memory=self.memory.beside(stream),
            certificate=self.certificates,
            steps=steps,
            callback=self._callback_of(number),
        )
        return TRAINERS[block.head](task)

    def _hand_on(
        self, number: int, outcome: BlockOutcome, stream: ImageStream
    ) -> tuple[TrainedBlock, MapStream]:
        """The block with the scaler of its maps, and the maps."""
        clock, block = PhaseClock(self._callback_of(number)), outcome.block.with_maps()
        maps = outcome.maps or freeze(block, stream, self.split, self.memory.beside(stream))
        clock.lap("maps")
        seconds = block.seconds | clock.seconds
        return replace(block, scaler=maps.scaler, seconds=seconds), maps

    def _goes_on(self, number: int) -> bool:
        """Whether there is time for a block, by the clock of the first process, or it was begun."""
        if number <= len(self.kept):
            return True
        begun = self.checkpoint is not None and self.checkpoint.begun(number)
        late = not begun and self.plan.leaves_no_time_for(number)
        return self.pixels.processes.tell(b"%d" % late) == b"0"

    def _callback_of(self, number: int) -> Callback | None:
        """The callback, told which block an event is of."""
        callback = self.callback
        if callback is None:
            return None
        return lambda event: callback(
            {**event, "phase": f"block {number}: {event['phase']}", "block": number}
        )


def _calibrated(scores: Tensor, labels: NDArray[np.int64], loss: str) -> dict[str, float]:
    """Loss and accuracy (n, k); with cross-entropy at the temperature of `predict_proba`."""
    if loss == "cross_entropy":
        scores = scores / fit_temperature(scores.numpy(), labels)
    return measure(scores, labels, loss)


def freeze(block: TrainedBlock, stream: ImageStream, split: Split, memory: MemoryPlan) -> MapStream:
    """The maps of a block, as a stream for the next one."""
    return freeze_maps(
        stream,
        block.map_shape,
        block.maps,
        block.scaler or spread(split.kept),
        in_memory=memory.keeps(map_bytes(stream, block.map_shape)),
    )


def check_blocks(
    blocks: Sequence[Block], stream: ImageStream, memory: MemoryPlan, kept: int = 0
) -> list[PatchGeometry]:
    """Refuse, before any work, blocks that do not fit the images or the memory.

    Args:
        blocks: settings of all.
        stream: all images.
        memory: how it is shared.
        kept: how many of the blocks are trained already.

    Returns:
        Where the patches and cells of every block lie.

    Raises:
        SettingError: it names the block and says what to do.
    """
    _, channels, height, width = stream.images.shape
    geometries = plan_geometries(tuple(blocks), (channels, height, width))
    memory_gb = stream.processes.least(memory.least_solver_gb)
    for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1):
        size = problem_size(block, geometry, *sizes_of(stream))
        if number <= kept:
            continue
        found_alone = block.head == "neurons" and block.gates == "dual"
        if found_alone and stream.processes.size > 1:
            raise SettingError(
                f"block {number}: gates 'dual' are found by one process; give sgd or lookahead"
            )
        try:
            block_solver(block, size, memory_gb)
        except SettingError as error:
            raise SettingError(f"block {number}: {error}") from error
    return geometries
