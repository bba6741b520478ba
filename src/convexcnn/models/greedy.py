"""A stack of the same blocks without convexity: each trained by SGD, those before it frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from convexcnn.models.back_propagation import accuracy, descend
from convexcnn.models.end_to_end import BATCH_SIZE, EndToEndCNN
from convexcnn.models.parameters import Seed
from convexcnn.models.stack_settings import Block, Blocks, Shape, read_blocks
from convexcnn.models.trained_block import downsampled
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback


class GreedyCNN(EndToEndCNN):
    """The greedy stack without convexity, the other baseline of ``LayerwiseConvexCNN``.

    Every block is a convolution, batch normalisation and ReLU of the widths, filters and
    down-samplings of the convex stack. It is trained by SGD with a linear head on averages of its
    responses over cells, on images that pass through the frozen blocks before it; then it is frozen
    too. The last head predicts (the blocks of one convolution, k = 1, of Belilovsky, Eickenberg &
    Oyallon: *Greedy Layerwise Learning Can Scale to ImageNet*, ICML 2019). The recipe is that of
    ``EndToEndCNN``, once per block.

    Args:
        blocks: as for ``LayerwiseConvexCNN``; of a ``Block`` only ``filter_size``, ``stride``,
            ``padding``, ``n_gates``, ``downsample`` and ``pooling`` are read.
        budget: minutes of training, which the blocks share evenly; None for no limit.
        epochs: passes over the images per block after which it ends, if not before; None for no
            limit.
        augment: as for ``EndToEndCNN``, and so are all others.
        batch_size: images per step.
        learning_rate: the highest one; None for 0.05, or less with batches below 128.
        centre: whether every image loses its mean first.
        validation_fraction: part of the images that is held out; 0 trains on all of them.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of weights, split, order, flips and shifts, or what it is drawn from.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per measurement, about twenty per block.
    """

    def __init__(
        self,
        *,
        blocks: Blocks | None = None,
        budget: float | None = 10.0,
        epochs: int | None = None,
        augment: str = "flip+crop",
        batch_size: int = BATCH_SIZE,
        learning_rate: float | None = None,
        centre: bool = False,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: Seed = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(
            budget=budget,
            epochs=epochs,
            augment=augment,
            batch_size=batch_size,
            learning_rate=learning_rate,
            centre=centre,
            validation_fraction=validation_fraction,
            device=device,
            random_state=random_state,
            image_shape=image_shape,
            callback=callback,
        )
        self.blocks = blocks

    def _build(self, image_shape: Shape, k: int) -> GreedyNetwork:
        return GreedyNetwork(read_blocks(self.blocks, image_shape=image_shape), image_shape, k)

    def _descend(
        self,
        network: nn.Module,
        train: ImageStream,
        held_out: ImageStream | None,
        generator: torch.Generator,
    ) -> list[dict[str, Any]]:
        assert isinstance(network, GreedyNetwork)
        stages = list(network.stages())
        recipe, curve = self.recipe, list[dict[str, Any]]()
        if recipe.budget is not None:
            recipe = replace(recipe, budget=recipe.budget / len(stages))
        for number, stage in enumerate(stages, 1):
            start = curve[-1] if curve else {"step": 0, "epoch": 0.0, "seconds": 0.0}

            def tell(event: dict[str, Any], number: int = number, start: Any = start) -> None:
                for name in ("step", "epoch", "seconds"):
                    event[name] += start[name]
                event["block"] = number
                if self.callback is not None:
                    self.callback(event)

            curve += descend(stage, train, held_out, recipe, generator=generator, callback=tell)
            stage.eval()
            if held_out is not None:
                measured = accuracy(stage, held_out, mirror=recipe.flip)
                curve[-1]["validation_accuracy"] = measured  # of all held-out images
                stage.eval()
        return curve

    @property
    def block_accuracies_(self) -> list[float]:
        """Of the head of every block on all held-out images; empty without any."""
        last = {event["block"]: event for event in self.curve_}
        return [e["validation_accuracy"] for e in last.values() if "validation_accuracy" in e]


class GreedyNetwork(nn.Module):
    """Blocks one after the other, each with a head; the last head has the scores.

    Args:
        settings: of every block.
        image_shape: (channels, height, width).
        k: number of classes.
    """

    def __init__(self, settings: Sequence[Block], image_shape: Shape, k: int) -> None:
        super().__init__()
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        shape = image_shape
        for block in settings:
            geometry = block.geometry(shape)
            self.blocks.append(GreedyBlock(block, shape[0]))
            cells = nn.AdaptiveAvgPool2d(block.pooling)
            head = nn.Linear(block.n_gates * geometry.n_cells, k)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            self.heads.append(nn.Sequential(cells, nn.Flatten(), head))
            shape = block.next_shape(geometry, block.n_gates)

    def stages(self) -> Iterator[nn.Module]:
        """Each block with its head on the frozen ones before it: a network to train."""
        for number, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
            yield Stage(tuple(self.blocks[:number]), block, head)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, k) of images (n, channels, height, width)."""
        maps = images
        for block in self.blocks[:-1]:
            maps = block(maps)
        last = self.blocks[-1]
        assert isinstance(last, GreedyBlock)
        scores: Tensor = self.heads[-1](last.responses(maps))
        return scores


class GreedyBlock(nn.Module):
    """Convolution, batch normalisation, ReLU; down-sampling on the way to the next block."""

    def __init__(self, block: Block, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            channels, block.n_gates, block.filter_size, block.stride, block.padding, bias=False
        )
        self.normalisation = nn.BatchNorm2d(block.n_gates)
        nn.init.kaiming_normal_(self.convolution.weight, nonlinearity="relu")
        self.downsample = block.downsample

    def responses(self, maps: Tensor) -> Tensor:
        """What the head sees, (n, neurons, rows, columns)."""
        found: Tensor = self.normalisation(self.convolution(maps)).relu()
        return found

    def forward(self, maps: Tensor) -> Tensor:
        """What the next block sees."""
        return downsampled(self.responses(maps), self.downsample)


class Stage(nn.Module):
    """A block and its head, trained on the maps of blocks that are frozen.

    The frozen ones are no modules of it, so that neither their weights nor their statistics change.
    """

    def __init__(self, frozen: tuple[nn.Module, ...], block: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.frozen, self.block, self.head = frozen, block, head

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, k) of images (n, channels, height, width)."""
        maps = images
        with torch.no_grad():
            for block in self.frozen:
                maps = block(maps)
        assert isinstance(self.block, GreedyBlock)
        scores: Tensor = self.head(self.block.responses(maps))
        return scores
