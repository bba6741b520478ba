"""A deep CNN made of convex blocks, trained one after the other; nothing is back-propagated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.data.arguments import check_whole
from convexcnn.data.rows import ImageRows
from convexcnn.data.split import train_validation_split
from convexcnn.errors import DataError, SettingError
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.base import ImageClassifier
from convexcnn.models.block_checkpoint import BlockCheckpoint, fingerprint, fingerprints
from convexcnn.models.block_kinds import KINDS
from convexcnn.models.block_training import Split
from convexcnn.models.descent_memory import descent_gb
from convexcnn.models.inputs import encode
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.parameters import Seed, draw_seed
from convexcnn.models.patch_block import PatchBlock
from convexcnn.models.probabilities import fit_temperature
from convexcnn.models.restored import positive
from convexcnn.models.stack_settings import Block, Blocks, Shape, plan_geometries, read_blocks
from convexcnn.models.stack_training import StackTraining, check_blocks, freeze
from convexcnn.models.strength import strongest_filters
from convexcnn.models.time_plan import PROBES, TimePlan
from convexcnn.models.torch_stack import StackNetwork
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.models.warm_start import ANEW, KeptBlocks, TrainedOn, tell_nothing_added
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback

SUM_ROUNDING = 1e-6
"""How far the sum of the weights of heads in a file may be from one."""

OF_EVERY_BLOCK = ("n_gates", "gates", "loss", "regulariser", "betas", "tolerance")
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
        blocks: ``small`` (four blocks), ``vgg11`` (eight), ``imagenet`` (four, for large images),
            or a list of ``Block``; None for ``imagenet`` if images have 128 pixels a side or more,
            and ``small`` if not.
        n_gates: gates of every block, instead of what ``blocks`` says; None for that.
        gates: where they come from, likewise.
        loss: of every head, likewise.
        regulariser: of every head, likewise.
        betas: weights of the regulariser that every head chooses from, likewise.
        tolerance: relative duality gap of every head, likewise.
        centre: whether every image loses its mean first.
        augment: views that train: ``none``, ``flip``, ``crop`` or ``flip+crop``. With mirror
            images, scores are averaged over an image and its mirror image, and programs see no
            shifted ones; descent sees all.
        validation_fraction: part of the images that is held out, the same for all blocks: it
            chooses betas and weighs heads. Beyond that it only shares in the scale of pixels.
        certificates: whether every block is certified as soon as it is trained.
        budget: minutes that are shared among the blocks; None for as many epochs as suit the data.
        checkpoint: folder that finished blocks are kept in; a training with the same images and
            settings that finds some there goes on after them, and may have further blocks. None
            for none.
        warm_start: whether ``fit`` keeps the blocks of the last training, to the bit, and trains
            only those that ``blocks`` names after them, or that a budget left out. Images, labels,
            and all that decides about split and views have to be the same.
        memory_gb: memory that the process may use while it trains, Python and torch (0.6 GB)
            included; None for 60 % of the machine's.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of gates, whitening samples and split, or what it is drawn from.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per phase or logged step.

    Attributes:
        classes_: (k,) the labels that occurred.
        blocks_: the trained blocks; ``measures`` of each has its accuracies.
        head_weights_: (B,) weights of the heads, non-negative, of sum one.
        certificates_: one per block, if asked for.
        training_scores_: (B, n, k) scores of every head for the images that ``fit`` was given.
        trained_on_: what has to be the same for ``warm_start``.
        seconds_: time of ``fit``.
        probing_seconds_: part of it in which the costs of blocks were measured; 0 without a budget.
    """

    def __init__(
        self,
        *,
        blocks: Blocks | None = None,
        n_gates: int | None = None,
        gates: str | None = None,
        loss: str | None = None,
        regulariser: str | None = None,
        betas: float | Sequence[float] | None = None,
        tolerance: float | None = None,
        centre: bool = True,
        augment: str = "flip+crop",
        validation_fraction: float = 0.1,
        certificates: bool = True,
        budget: float | None = None,
        checkpoint: Path | str | None = None,
        warm_start: bool = False,
        memory_gb: float | None = None,
        device: str = "auto",
        random_state: Seed = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.blocks = blocks
        self.n_gates = n_gates
        self.gates = gates
        self.loss = loss  # type: ignore[assignment]  # see measured_by
        self.regulariser = regulariser
        self.betas = betas
        self.tolerance = tolerance
        self.centre = centre
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.certificates = certificates
        self.budget = budget
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.memory_gb = memory_gb
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    @property
    def measured_by(self) -> str:
        """The loss of the last block."""
        blocks = getattr(self, "blocks_", None)
        return (blocks[-1].settings if blocks else self.read_blocks()[-1]).loss

    def read_blocks(self, image_shape: Shape | None = None) -> tuple[Block, ...]:
        """The settings of every block."""
        instead = {name: getattr(self, name) for name in OF_EVERY_BLOCK}
        return read_blocks(self.blocks, instead, image_shape)

    def check_parameters(self) -> None:
        super().check_parameters()
        if self.budget is not None and not 0 < 60 * self.budget <= sys.float_info.max:
            raise SettingError(f"budget is {self.budget}; give a positive number of minutes")
        self._check_validation_fraction()

    @property
    def _goes_on(self) -> bool:
        """Whether the next training keeps the blocks of the last one."""
        return self.warm_start and hasattr(self, "blocks_")

    def _drawn_seed(self) -> int:
        """As given, or drawn; of a training that goes on, the one that was drawn before."""
        given = isinstance(self.random_state, (int, np.integer))
        before: TrainedOn | None = getattr(self, "trained_on_", None)
        if self._goes_on and before is not None and not given:
            return before.random_state
        return super()._drawn_seed()

    def _check(self, X: ArrayLike, y: ArrayLike) -> tuple[ImageRows, NDArray[Any]]:
        images, targets = super()._check(X, y)
        if self._goes_on:
            same = tuple(images.shape[1:]) == tuple(self.image_shape_)
            if not same or encode(targets)[0].tolist() != self.classes_.tolist():
                raise DataError(
                    f"X and y have images of another shape, or other classes, than the trained "
                    f"blocks saw; give the same, {ANEW}"
                )
        return images, targets

    def _fit_stream(self, stream: ImageStream, generator: torch.Generator) -> dict[str, Any]:
        _, channels, height, width = stream.images.shape
        blocks = self.read_blocks((channels, height, width))
        kept = self._kept_blocks(blocks)
        memory = self.memory_plan(stream, blocks)
        geometries = check_blocks(blocks, stream.paired(), memory, len(kept))
        split = self._held_out(stream)
        plan = TimePlan.of(self.budget, blocks, geometries, stream)
        if self.callback is not None and self.budget is not None:
            self.callback({"phase": PROBES, "step": 1, "seconds": plan.probing})
        trained_on = replace(self._deciding(), images=fingerprint(stream))
        kept.check_images(trained_on)
        training = StackTraining(
            blocks,
            stream,
            split,
            plan,
            memory,
            self._checkpoint(blocks, trained_on, kept, stream),
            self.certificates,
            self.callback,
            kept,
        )
        found = training.run(generator)
        certificates = (block.certificate for block in found.blocks)
        whole = {
            "blocks_": found.blocks,
            "head_weights_": found.head_weights,
            "certificates_": [proof for proof in certificates if proof is not None],
            "temperature_": fit_temperature(found.scores.numpy(), stream.labels[split.held_out]),
            "training_scores_": found.heads.numpy(),
            "trained_on_": trained_on,
            "probing_seconds_": plan.probing,
            "n_train_": len(stream.images),
        }
        if len(found.blocks) > len(kept):
            return whole
        if stream.processes.writes:
            tell_nothing_added(len(blocks), len(kept))
        return whole | {"head_weights_": self.head_weights_, "temperature_": self.temperature_}

    def _deciding(self) -> TrainedOn:
        """What decides about the input of all blocks, but for the images."""
        split = float(self.validation_fraction), draw_seed(self.random_state)
        return TrainedOn("", bool(self.centre), self.augment, *split)

    def _kept_blocks(self, blocks: Sequence[Block]) -> KeptBlocks:
        """The trained blocks that the next training goes on from; none without ``warm_start``.

        Raises:
            SettingError: ``blocks``, or what decides about their input, is not as it was.
        """
        if not self._goes_on:
            return KeptBlocks()
        scores: NDArray[np.float32] | None = getattr(self, "training_scores_", None)
        heads = None if scores is None else torch.from_numpy(scores)
        kept = KeptBlocks(self.blocks_, heads, self.trained_on_)
        kept.check_settings(self._deciding())
        kept.check_begin(blocks)
        return kept

    def memory_plan(self, stream: ImageStream, blocks: Sequence[Block]) -> MemoryPlan:
        """What the training of blocks may keep in memory."""
        images, scores = stream.images, len(blocks) * len(stream.images) * stream.n_classes
        _, channels, height, width = images.shape
        shape = channels, height, width
        geometries = plan_geometries(blocks, shape)
        descent = descent_gb(blocks, geometries, shape, stream.device, len(images))
        return MemoryPlan.of(self.memory_gb, images, scores, descent)

    def _checkpoint(
        self,
        blocks: Sequence[Block],
        trained_on: TrainedOn,
        kept: KeptBlocks,
        stream: ImageStream,
    ) -> BlockCheckpoint | None:
        """Where finished blocks are kept, if they are."""
        if self.checkpoint is None:
            return None
        known = fingerprints(blocks, trained_on, kept.blocks)
        return BlockCheckpoint(Path(self.checkpoint), known, stream.processes)

    def _held_out(self, stream: ImageStream) -> Split:
        """Every class divided by the same seed, for ``fit`` and ``certify`` alike."""
        split = train_validation_split(
            stream.labels, self.validation_fraction, draw_seed(self.random_state)
        )
        if not len(split[1]):
            raise DataError("y has too few images to hold any out; give two of some class")
        stream.subset(split[0]).require_shares()
        return Split(*split)

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
        stream = self.training_stream(X, y).paired()
        memory = MemoryPlan.of(self.memory_gb, stream.images)
        split = self.as_trained()._held_out(stream)
        certificates = []
        with torch.no_grad(), fast_float32():
            for number, block in enumerate(self.blocks_, 1):
                block = block.to("cpu")
                certificates.append(block.certify(stream.subset(split.kept)))
                if number < len(self.blocks_):
                    stream = freeze(block, stream, split, memory.beside(stream))
                if progress is not None:
                    progress(number)
        return certificates

    def block_scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores (B, n, k) of every block's own head, mirror images averaged in."""
        blocks = self.scaled_blocks(X)
        with torch.no_grad(), fast_float32():
            heads = self.as_trained()._heads
            scores = [torch.stack(list(heads(images))).cpu() for images in blocks]
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
        check_whole("n_filters", n_filters, 1)
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
        mirror = AUGMENTATIONS[self.as_trained().augment].mirror
        weights = self.head_weights_.tolist()
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
            "trained_on": None if self.trained_on_ is None else vars(self.trained_on_),
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
        whole = weights.shape == (len(blocks),) and abs(float(weights.sum()) - 1) < SUM_ROUNDING
        if not whole or not bool((weights >= 0).all()):
            raise ValueError(f"head_weights is {stack['head_weights']}")
        if self.blocks is not None and not isinstance(self.blocks, str):
            self.blocks = read_blocks(self.blocks)
        self.blocks_, self.head_weights_ = blocks, weights
        self.certificates_: list[Certificate] = []
        saved = stack.get("trained_on")
        self.trained_on_ = None if saved is None else TrainedOn.read(saved)
        self.temperature_ = positive(stack, "temperature")
