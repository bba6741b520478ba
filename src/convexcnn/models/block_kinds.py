"""The kinds of block by what their head is linear in: how each is trained, and its class."""

from __future__ import annotations

from collections.abc import Callable

from convexcnn.models.block_training import BlockOutcome, BlockTask
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.neuron_training import train_neuron_block
from convexcnn.models.patch_block import PatchBlock
from convexcnn.models.patch_training import train_patch_block
from convexcnn.models.trained_block import TrainedBlock

TRAINERS: dict[str, Callable[[BlockTask], BlockOutcome]] = {
    "neurons": train_neuron_block,
    "patches": train_patch_block,
}
KINDS: dict[str, type[TrainedBlock]] = {"neurons": NeuronBlock, "patches": PatchBlock}
