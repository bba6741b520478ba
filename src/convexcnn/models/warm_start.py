"""Blocks that a stack takes over from an earlier training, and what has to be the same for that."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.errors import DataError, SettingError
from convexcnn.models.block_training import BlockOutcome
from convexcnn.models.patch_training import view_scores
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback, PhaseClock

ANEW = "or train anew, without warm_start or --extend"


class NothingAdded(UserWarning):
    """A training that was to add blocks to a stack left it as it was."""


def tell_nothing_added(blocks: int, kept: int) -> None:
    """Warn that a stack stays as it was, and why.

    Args:
        blocks: that were asked for.
        kept: that were there before.
    """
    reason = "budget is too short for a further block"
    if blocks == kept:
        reason = f"blocks names no more than the {kept} that are trained"
    warnings.warn(f"{reason}; the stack stays as it was", NothingAdded, stacklevel=5)


def certified(block: TrainedBlock, stream: ImageStream, kept: NDArray[np.intp]) -> TrainedBlock:
    """A trained block with a certificate, the one that it has or a new one.

    Args:
        block: trained before.
        stream: all images as the block sees them.
        kept: which of them train.
    """
    if block.certificate is not None:
        return block
    train = replace(stream, device="cpu").subset(kept)
    return replace(block, certificate=block.to("cpu").certify(train))


@dataclass(frozen=True)
class TrainedOn:
    """What decides about the input of a stack's blocks beside their own settings.

    Args:
        images: fingerprint of images and labels.
        centre: as parameters of the stack, like the rest.
        augment: likewise.
        validation_fraction: likewise.
        random_state: likewise, the seed that was given or drawn.
    """

    images: str
    centre: bool
    augment: str
    validation_fraction: float
    random_state: int

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> TrainedOn:
        """The same from a file.

        Raises:
            ValueError: something that is never written.
        """
        found = cls(**saved)
        if [type(value) for value in vars(found).values()] != [str, bool, str, float, int]:
            raise ValueError(f"trained_on is {saved}")
        return found


@dataclass(frozen=True)
class KeptBlocks:
    """The first blocks of a stack, which an earlier training made.

    Args:
        blocks: all that it trained.
        scores: (B, n, k) of all images by every block's own head; None to compute them again.
        trained_on: what they were trained on; None if a file of old does not say.
    """

    blocks: Sequence[TrainedBlock] = ()
    scores: Tensor | None = None
    trained_on: TrainedOn | None = None

    def __len__(self) -> int:
        return len(self.blocks)

    def outcome(
        self,
        number: int,
        stream: ImageStream,
        kept: NDArray[np.intp],
        callback: Callback | None,
        *,
        certificate: bool,
    ) -> BlockOutcome:
        """A block as its training would give it; what it lacks is computed.

        Args:
            number: of the block, from 1.
            stream: all images as the block sees them.
            kept: which of them train.
            callback: told what is computed.
            certificate: whether it has to have one.
        """
        clock, earlier = PhaseClock(callback), self.blocks[number - 1]
        block = replace(earlier, measures=dict(earlier.measures), kept=True).to(stream.device)
        if self.scores is None:
            scores = view_scores(block, stream)
            clock.lap("scores")
        else:
            scores = self.scores[number - 1]
        if certificate and block.certificate is None:
            block = certified(block, stream, kept)
            clock.lap("certificate")
        return BlockOutcome(replace(block, seconds=dict(clock.seconds)), scores)

    def check_settings(self, now: TrainedOn) -> None:
        """Refuse parameters that decide about maps, split or views, and are not as they were.

        Raises:
            SettingError: the first one, or blocks of which nobody knows what they were trained on.
        """
        if self.trained_on is None:
            raise SettingError(
                "warm_start needs to know which images the trained blocks saw, and their file, of "
                "an earlier version, does not say; train anew without it"
            )
        for name in ("centre", "augment", "validation_fraction", "random_state"):
            value, before = getattr(now, name), getattr(self.trained_on, name)
            if value != before:
                raise SettingError(
                    f"{name} is {value!r}, and the trained blocks had {before!r}; give that, {ANEW}"
                )

    def check_images(self, now: TrainedOn) -> None:
        """Refuse images or labels that the blocks were not trained on.

        Raises:
            DataError: they differ.
        """
        if self.trained_on is not None and self.trained_on.images != now.images:
            raise DataError(
                f"X and y are not what the trained blocks saw; give the same images, of the same "
                f"type and in the same order, with the same labels, {ANEW}"
            )

    def check_begin(self, blocks: Sequence[Block]) -> None:
        """Refuse a list of blocks that does not begin with the trained ones.

        Raises:
            SettingError: it names the block and the setting that differs.
        """
        if len(blocks) < len(self):
            raise SettingError(
                f"blocks names {len(blocks)}, and {len(self)} are trained; begin with these, {ANEW}"
            )
        for number, (block, trained) in enumerate(zip(blocks, self.blocks, strict=False), 1):
            wanted, had = _values(block), _values(trained.settings)
            for name in wanted:
                if wanted[name] != had[name]:
                    raise SettingError(
                        f"block {number}: {name} is {wanted[name]!r}, and {had[name]!r} in the "
                        f"trained block; begin with the trained blocks, {ANEW}"
                    )


def _values(block: Block) -> dict[str, Any]:
    """Settings of a block, with lists as a file gives them back."""
    values = dict(vars(block))
    if block.betas is not None:
        values["betas"] = np.asarray(block.betas, float).tolist()
    return values
