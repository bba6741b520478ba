"""A deep CNN made of convex blocks, trained one after the other; nothing is back-propagated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.data.split import train_validation_split
from convexcnn.errors import DataError, SettingError
from convexcnn.models.base import AUGMENTATIONS, ImageClassifier
from convexcnn.models.block_checkpoint import BlockCheckpoint, fingerprint
from convexcnn.models.block_kinds import KINDS, TRAINERS
from convexcnn.models.block_training import (
    BlockTask,
    Split,
    block_solver,
    measure,
    problem_size,
    sizes_of,
)
from convexcnn.models.frozen_maps import MapStream, freeze_maps, map_bytes
from convexcnn.models.head_combination import best_combination
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.neuron_network import BATCH
from convexcnn.models.patch_block import PatchBlock
from convexcnn.models.probabilities import fit_temperature
from convexcnn.models.stack_settings import Block, Blocks, Shape, plan_geometries, read_blocks
from convexcnn.models.strength import strongest_filters
from convexcnn.models.time_plan import BlockCost, TimePlan
from convexcnn.models.torch_stack import StackNetwork
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback, PhaseClock

OF_EVERY_BLOCK = ("n_gates", "gates", "regulariser", "tolerance")
"""Parameters of a stack that stand for settings of all its blocks."""


class LayerwiseConvexCNN(ImageClassifier):
    """A stack of convex blocks: each sees the frozen maps of the one before, and is solved exactly.

    The head of block b minimises  (1/n) loss(sum_i Phi_i V_i + b, Y) + (beta/2) |V|^2  over the
    gated features Phi_i of its frozen input, with V_i a multiple of gate i, or free; held-out
    images choose beta. Its maps are the responses of its neurons. Every head is certified given
    its frozen input; the prediction is the last head, or the combination of all heads that fits
    held-out images best, whichever classifies more of these correctly (Belilovsky, Eickenberg &
    Oyallon 2019; Sahiner et al. 2024).

    Args:
        blocks: ``small`` (four blocks), ``vgg11`` (eight), ``imagenet`` (five, for large images),
            or a list of ``Block``.
        n_gates: gates of every block, instead of what ``blocks`` says; None for that.
        gates: where they come from, likewise.
        regulariser: of every block, likewise.
        tolerance: relative duality gap of every head, likewise.
        centre: whether every image loses its mean first.
        augment: views that train: ``none``, ``flip``, ``crop`` or ``flip+crop``. With mirror
            images, scores are averaged over an image and its mirror image.
        validation_fraction: part of the images that is held out, the same for all blocks: it
            chooses betas and weighs heads. Beyond that it only shares in the scale of pixels.
        certificates: whether every block is certified as soon as it is trained.
        budget: minutes that are shared among the blocks; None for as many epochs as suit the data.
        checkpoint: folder that finished blocks are kept in; a training with the same images and
            settings that finds some there goes on after them. None for none.
        memory_gb: memory that the process may use while it trains, Python and torch (0.6 GB)
            included; None for 60 % of the machine's.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of gates, whitening samples and split.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per phase or logged step.

    Attributes:
        classes_: (k,) the labels that occurred.
        blocks_: the trained blocks; ``measures`` of each has its accuracies.
        head_weights_: (B,) weights of the heads, non-negative, of sum one.
        certificates_: one per block, if asked for.
        training_scores_: (B, n, k) scores of every head for the images that ``fit`` was given.
        seconds_: time of ``fit``.
    """

    def __init__(
        self,
        *,
        blocks: Blocks = "small",
        n_gates: int | None = None,
        gates: str | None = None,
        regulariser: str | None = None,
        tolerance: float | None = None,
        centre: bool = True,
        augment: str = "flip+crop",
        validation_fraction: float = 0.1,
        certificates: bool = True,
        budget: float | None = None,
        checkpoint: Path | str | None = None,
        memory_gb: float | None = None,
        device: str = "auto",
        random_state: int | None = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.blocks = blocks
        self.n_gates = n_gates
        self.gates = gates
        self.regulariser = regulariser
        self.tolerance = tolerance
        self.centre = centre
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.certificates = certificates
        self.budget = budget
        self.checkpoint = checkpoint
        self.memory_gb = memory_gb
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    @property
    def loss(self) -> str:  # type: ignore[override]
        """The loss of the last block, which the prediction is measured by."""
        blocks = getattr(self, "blocks_", None)
        return (blocks[-1].settings if blocks else self.read_blocks()[-1]).loss

    def read_blocks(self, image_shape: Shape | None = None) -> tuple[Block, ...]:
        """The settings of every block."""
        instead = {name: getattr(self, name) for name in OF_EVERY_BLOCK}
        return read_blocks(self.blocks, instead, image_shape)

    def _fit_stream(self, stream: ImageStream, generator: torch.Generator) -> dict[str, Any]:
        _, channels, height, width = stream.images.shape
        blocks = self.read_blocks((channels, height, width))
        memory = self.memory_plan(stream, len(blocks))
        plan = self._plan(blocks, stream, memory)
        checkpoint = self._checkpoint(blocks, stream)
        seeds = torch.randint(2**62, (len(blocks),), generator=generator).tolist()
        split = self._held_out(stream)
        labels = stream.labels[split.held_out]
        trained: list[TrainedBlock] = []
        pixels = stream
        heads: list[Tensor] = []
        weights = torch.ones(1, dtype=torch.float64)
        for number, block in enumerate(blocks, 1):
            outcome = checkpoint.load(number, block, stream) if checkpoint else None
            finished = outcome is not None
            if outcome is None:
                streams, plans = (pixels, stream), (plan, memory)
                task = self._task(blocks, tuple(trained), streams, split, plans, checkpoint)
                task.generator.manual_seed(seeds[number - 1])
                outcome = TRAINERS[block.head](task)
            found = outcome.block
            if finished:
                plan.spent += sum(found.seconds.values())
            heads.append(outcome.scores.cpu())
            held_out = torch.stack(heads)[:, torch.from_numpy(split.held_out)]
            weights = choose_heads(held_out, labels, block.loss)
            stacked = torch.einsum("b,bnk->nk", weights.float(), held_out)
            found.measures["stack"] = measure(stacked, labels, block.loss)
            last = number == len(blocks) or not self._goes_on(plan, number + 1, stream)
            if not last:
                clock = PhaseClock(self._callback_of(number))
                beside = memory.beside(stream)
                stream = outcome.maps or self._freeze(found, stream, split, beside)
                clock.lap("maps")
                seconds = found.seconds | clock.seconds
                found = replace(found, scaler=stream.scaler, seconds=seconds)
            if checkpoint is not None and not finished:
                checkpoint.save(number, found, outcome.scores)
            trained.append(found.without_maps() if last else found)
            del outcome
            if last:
                break
        return {
            "blocks_": trained,
            "head_weights_": weights,
            "certificates_": [b.certificate for b in trained if b.certificate is not None],
            "temperature_": fit_temperature(stacked.numpy(), labels),
            "training_scores_": torch.stack(heads).numpy(),
            "n_train_": len(stream.images),
        }

    def _task(
        self,
        blocks: tuple[Block, ...],
        earlier: tuple[TrainedBlock, ...],
        streams: tuple[ImageStream, ImageStream],
        split: Split,
        plans: tuple[TimePlan, MemoryPlan],
        checkpoint: BlockCheckpoint | None,
    ) -> BlockTask:
        """The training of the next block: ``streams`` are the images, and the maps it sees."""
        number, (pixels, stream), (plan, memory) = len(earlier) + 1, streams, plans
        batch = min(BATCH, len(split.kept))

        def steps(default: int) -> int:
            known = checkpoint.planned(number) if checkpoint else None
            found = known or plan.steps(number, default, batch)
            found = int(stream.processes.tell(b"%d" % found))  # clocks differ
            if checkpoint is not None and known is None:
                checkpoint.plan(number, found)
            return found

        return BlockTask(
            blocks[number - 1],
            pixels,
            earlier,
            stream,
            split,
            torch.Generator(),
            last=number == len(blocks),
            memory=memory.beside(stream),
            certificate=self.certificates,
            steps=steps,
            callback=self._callback_of(number),
        )

    @staticmethod
    def _goes_on(plan: TimePlan, number: int, stream: ImageStream) -> bool:
        """Whether there is time for a block, by the clock of the first process."""
        return stream.processes.tell(b"%d" % plan.leaves_no_time_for(number)) == b"0"

    def memory_plan(self, stream: ImageStream, blocks: int) -> MemoryPlan:
        """What the training of so many blocks may keep in memory."""
        scores = blocks * len(stream.images) * stream.n_classes
        return MemoryPlan.of(self.memory_gb, stream.images, scores)

    def _plan(self, blocks: tuple[Block, ...], stream: ImageStream, memory: MemoryPlan) -> TimePlan:
        """How the budget is shared; refuses, before any work, what cannot be trained."""
        geometries = self._check_memory(blocks, stream, memory)
        costs = []
        if self.budget is not None:
            costs = [
                BlockCost.of(block, geometry, stream.device, last=number == len(blocks))
                for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1)
            ]
        return TimePlan(
            self.budget,
            costs,
            images=len(stream.images),
            views=stream.views,
            classes=stream.n_classes,
        )

    def _checkpoint(self, blocks: tuple[Block, ...], stream: ImageStream) -> BlockCheckpoint | None:
        """Where finished blocks are kept, if they are."""
        if self.checkpoint is None:
            return None
        settings = self.centre, self.augment, self.validation_fraction, self.random_state
        return BlockCheckpoint(
            Path(self.checkpoint),
            fingerprint(stream, blocks, self.certificates, *settings),
            stream.processes,
        )

    def _check_memory(
        self, blocks: tuple[Block, ...], stream: ImageStream, memory: MemoryPlan
    ) -> list[PatchGeometry]:
        """Refuse, before any work, blocks that do not fit the images or the memory."""
        if self.budget is not None and not self.budget > 0:
            raise SettingError(f"budget is {self.budget}; give a positive number of minutes")
        _, channels, height, width = stream.images.shape
        geometries = plan_geometries(blocks, (channels, height, width))
        for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1):
            size = problem_size(block, geometry, *sizes_of(stream))
            try:
                block_solver(block, size, memory.least_solver_gb)
            except SettingError as error:
                raise SettingError(f"block {number}: {error}") from error
        return geometries

    def _held_out(self, stream: ImageStream) -> Split:
        """Every class divided by the same seed, for ``fit`` and ``certify`` alike."""
        if not 0 < self.validation_fraction < 1:
            raise SettingError(
                f"validation_fraction is {self.validation_fraction}; give a number between 0 and 1"
            )
        split = train_validation_split(
            stream.labels, self.validation_fraction, self.random_state or 0
        )
        if not len(split[1]):
            raise DataError("y has too few images to hold any out; give two of some class")
        stream.subset(split[0]).require_shares()
        return Split(*split)

    def _callback_of(self, number: int) -> Callback | None:
        """The callback, told which block an event is of."""
        callback = self.callback
        if callback is None:
            return None

        def tell(event: dict[str, Any]) -> None:
            callback({**event, "phase": f"block {number}: {event['phase']}", "block": number})

        return tell

    def _freeze(
        self, block: TrainedBlock, stream: ImageStream, split: Split, memory: MemoryPlan
    ) -> MapStream:
        """The maps of a block, as a stream for the next one."""
        return freeze_maps(
            stream,
            block.map_shape,
            block.maps,
            block.scaler or split.kept,
            in_memory=memory.keeps(map_bytes(stream, block.map_shape)),
        )

    def certify(
        self, X: ArrayLike, y: ArrayLike, progress: Callable[[int], None] | None = None
    ) -> list[Certificate]:
        """Certify every block again, in float64, on the images that ``fit`` was given.

        The maps between the blocks are computed again; given them, every head is optimal to the
        relative gap of its certificate. The stack as a whole has no certificate.

        Args:
            X: the images given to ``fit``, held-out ones included.
            y: (n,) their labels.
            progress: called with the number of blocks done.

        Returns:
            One certificate per block.

        Raises:
            DataError: images or labels of another kind than the model was trained on.
        """
        stream = self.training_stream(X, y)
        memory, split = MemoryPlan.of(self.memory_gb, stream.images), self._held_out(stream)
        certificates = []
        with torch.no_grad(), fast_float32():
            for number, block in enumerate(self.blocks_, 1):
                block = block.to("cpu")
                certificates.append(block.certify(stream.subset(split.kept)))
                if number < len(self.blocks_):
                    stream = self._freeze(block, stream, split, memory.beside(stream))
                if progress is not None:
                    progress(number)
        return certificates

    def block_scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores (B, n, k) of every block's own head, mirror images averaged in."""
        blocks = self.scaled_blocks(X)
        with torch.no_grad(), fast_float32():
            scores = [torch.stack(list(self._heads(images))).cpu() for images in blocks]
        empty = torch.zeros(len(self.blocks_), 0, len(self.classes_))
        result: NDArray[np.float32] = torch.cat([empty, *scores], 1).numpy()
        return result

    def _heads(self, images: Tensor) -> Iterator[Tensor]:
        """Scores (n, k) of scaled images by one block after the other.

        Where mirror images train, the scores of an image are averaged with those of its own: the
        network does not tell left from right.
        """
        views = [images, images.flip(3)] if AUGMENTATIONS[self.augment].mirror else [images]
        for number, block in enumerate(self.blocks_, 1):
            yield torch.stack([block.scores(view) for view in views]).mean(0)
            if number < len(self.blocks_):
                views = [block.next_images(view) for view in views]

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        weights = [float(weight) for weight in self.head_weights_]

        def score(images: Tensor) -> Tensor:
            heads = zip(weights, self._heads(images), strict=True)
            return torch.stack([weight * scores for weight, scores in heads]).sum(0)

        return score

    def filters(self, n_filters: int = 32) -> dict[str, NDArray[np.float32]]:
        """Return the strongest filters of the first block, as ConvexConvClassifier returns its own.

        Args:
            n_filters: how many per class.
        """
        first = self.blocks_[0].to("cpu")
        if isinstance(first, NeuronBlock):
            strengths = first.weights.norm(dim=(1, 3)) * first.filters.flatten(1).norm(dim=1)
            strength, order = strengths.sort(1, descending=True)
            chosen, strength = first.filters[order[:, :n_filters]], strength[:, :n_filters]
            return {"convex": chosen.numpy(), "convex_strength": strength.numpy()}
        assert isinstance(first, PatchBlock)
        filters, strength = strongest_filters(
            first.weights, first.transform, n_filters, signed=False
        )
        side = first.geometry.filter_size
        shape = (*strength.shape, self.image_shape_[0], side, side)
        return {"convex": filters.reshape(shape).numpy(), "convex_strength": strength.numpy()}

    def to_torch(self) -> StackNetwork:
        self.check_trained()
        weights = self.head_weights_.tolist()
        mirror = AUGMENTATIONS[self.augment].mirror
        return StackNetwork(self.scaler_, self.blocks_, weights, mirror=mirror).eval()

    @property
    def fitted_device(self) -> torch.device:
        return self.blocks_[0].weights.device

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = [block.saved() for block in self.blocks_]
        tensors = {
            f"block{number}.{name}": tensor
            for number, (found, _) in enumerate(parts, 1)
            for name, tensor in found.items()
        }
        description = {
            "settings": [vars(block.settings) for block in self.blocks_],
            "blocks": [description for _, description in parts],
            "head_weights": self.head_weights_.tolist(),
            "temperature": self.temperature_,
        }
        return tensors, {"stack": description}

    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        stack = description["stack"]
        settings = read_blocks(stack["settings"])
        channels, height, width = self.image_shape_
        shape: Shape = channels, height, width
        blocks: list[TrainedBlock] = []
        for number, block in enumerate(settings, 1):
            kind = KINDS[block.head]
            own = {name: tensors[f"block{number}.{name}"] for name in kind.tensors}
            rest = stack["blocks"][number - 1]
            blocks.append(kind.restored(block, shape, len(self.classes_), own, rest))
            shape = blocks[-1].map_shape
            if number < len(settings) and blocks[-1].scaler is None:
                raise ValueError(f"block {number} has no scaler for the maps that it hands on")
        weights = torch.tensor(stack["head_weights"], dtype=torch.float64)
        if weights.shape != (len(blocks),) or not bool((weights >= 0).all()):
            raise ValueError(f"head_weights is {stack['head_weights']}")
        if not isinstance(self.blocks, str):
            self.blocks = read_blocks(self.blocks)
        self.blocks_, self.head_weights_ = blocks, weights
        self.certificates_: list[Certificate] = []
        self.temperature_ = float(stack["temperature"])
        if not math.isfinite(self.temperature_):
            raise ValueError(f"temperature is {self.temperature_}")


def choose_heads(scores: Tensor, labels: NDArray[np.int64], loss: str) -> Tensor:
    """Return weights (B,) of the heads: all on the last one, or their best convex combination.

    Args:
        scores: (B, n, k) of held-out images.
        labels: (n,) theirs.
        loss: that the combination minimises.

    Returns:
        The combination, unless the last head alone classifies more images correctly.
    """
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), scores.shape[2])
    combined = best_combination(scores, targets, loss)
    last = torch.zeros_like(combined)
    last[-1] = 1
    together = torch.einsum("b,bnk->nk", combined.float(), scores)
    accuracies = [measure(found, labels, loss)["accuracy"] for found in (together, scores[-1])]
    return combined if accuracies[0] >= accuracies[1] else last
