"""What the blocks of a stack are: settings by hand or by name, refused before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convexcnn.errors import SettingError, suggestion
from convexcnn.models.parameters import check_values
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import LARGEST
from convexcnn.programs.losses import LOSSES
from convexcnn.programs.regularisers import REGULARISERS

BLOCK_GATES = ("gaussian", "patches", "dual", "sgd", "lookahead")
"""Strategies that a block can take its gates from."""

LEARNED = ("sgd", "lookahead", "dual")
"""Those that go through the images for a number of steps, if the head is on neurons."""

HEADS = ("neurons", "patches")
"""What the head of a block is linear in."""

DOWNSAMPLINGS = ("none", "average", "max", "space-to-depth")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Block:
    """Settings of one block.

    Args:
        filter_size: side of the patches, in pixels of the maps that the block sees.
        stride: distance between patches, in pixels; the next maps have a pixel per patch.
        padding: zeros around the maps, in pixels.
        n_gates: number of gates, g.
        gates: ``gaussian``, ``patches``, ``sgd`` or ``dual``, as for ConvexConvClassifier; or
            ``lookahead`` (head ``neurons``): learned together with further convolutions on
            the maps, which are thrown away, so that they serve later blocks, too; in the last
            block, ``sgd``.
        lookahead: how many of these convolutions there are, 1 or 2.
        head: ``neurons``: V_i is a multiple of gate i, so that the head is linear in the pooled
            ReLU responses of the gates, and all of them are channels of the next maps.
            ``patches``: V_i is free, so that the head is linear in whole gated patches; g d
            numbers per class and cell instead of g.
        n_neurons: of head ``patches``: neurons that become channels of the next maps, M; fewer if
            there are not as many. Of no account in the last block.
        downsample: what happens to the next maps: ``none``, ``average`` or ``max`` (of 2x2 pixels)
            or ``space-to-depth`` (2x2 pixels become four channels). An odd last row or column is
            cut.
        pooling: cells per side that the head averages over.
        whiten: of head ``patches``: number of whitened principal directions of a patch, at most
            all of them; None takes patches as they are. Neurons always see white patches.
        loss: ``squared`` or ``cross_entropy``.
        regulariser: ``l2``, ``group`` or ``nuclear``, as for ConvexConvClassifier. Of head
            ``neurons`` V_i = a_i v_i' has rank one, so that ``nuclear`` is the sum of |v_i| over
            neurons, which leaves whole neurons out, and ``group`` that of all |v_ic|, which leaves
            out neurons class by class and cell by cell.
        tolerance: relative duality gap of the head; None for 1e-6 for squared loss with ``l2`` and
            1e-3 for the others.
        betas: weights of the regulariser to choose from; None for a path that fits the data.
        epochs: of the network that lends its neurons, or of all ascents together (head ``neurons``,
            gates ``sgd``, ``lookahead`` and ``dual``); None for a number that fits the data, or the
            budget of the stack.

    Raises:
        SettingError: a value that cannot work.
    """

    filter_size: int = 3
    stride: int = 1
    padding: int = 1
    n_gates: int = 48
    gates: str = "sgd"
    lookahead: int = 1
    head: str = "neurons"
    n_neurons: int = 128
    downsample: str = "none"
    pooling: int = 2
    whiten: int | None = 80
    loss: str = "cross_entropy"
    regulariser: str = "l2"
    tolerance: float | None = None
    betas: float | Sequence[float] | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        check_values(Block, vars(self))
        for name in ("n_gates", "n_neurons"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.lookahead not in (1, 2):
            raise SettingError(f"lookahead is {self.lookahead}; give 1 or 2 convolutions")
        for name in ("epochs", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST:
                raise SettingError(f"{name} is {value}; give a positive number, or None")
        choices = {
            "gates": BLOCK_GATES,
            "head": HEADS,
            "downsample": DOWNSAMPLINGS,
            "loss": tuple(LOSSES),
            "regulariser": tuple(REGULARISERS),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise SettingError(
                    f"{name} {getattr(self, name)!r} is not known to a block; choose one of "
                    f"{', '.join(known)}"
                )
        if self.gates == "lookahead" and self.head != "neurons":
            raise SettingError(f"gates 'lookahead' is for head neurons; head is {self.head!r}")
        if self.whiten is not None and self.whiten < 1:
            raise SettingError(f"whiten is {self.whiten}; keep at least 1 direction, or None")
        values = [self.betas] if isinstance(self.betas, (int, float, np.number)) else self.betas
        try:
            sound = values is None or (len(values) and all(0 < b <= LARGEST for b in values))
        except TypeError:
            sound = False
        if not sound:
            raise SettingError(f"betas is {self.betas}; give positive numbers")

    @property
    def own_epochs(self) -> float:
        """Epochs of learning its neurons that the settings fix; 0 where a budget decides."""
        learned = self.head == "neurons" and self.gates in LEARNED
        return self.epochs if learned and self.epochs is not None else 0

    def geometry(self, shape: Shape) -> PatchGeometry:
        """Where the patches of maps (channels, height, width) lie, and the cells of the head."""
        return PatchGeometry(shape, self.filter_size, self.stride, self.padding, self.pooling)

    @property
    def descends(self) -> bool:
        """Whether its neurons are learned for as long as there is time."""
        return self.head == "neurons" and self.gates in LEARNED and self.epochs is None

    @property
    def width(self) -> int:
        """Channels of its responses: how many neurons it hands on, if there are as many."""
        return self.n_gates if self.head == "neurons" else self.n_neurons

    def next_shape(self, geometry: PatchGeometry, n_neurons: int) -> Shape:
        """Channels, height and width of the next maps, made of so many neurons."""
        rows, columns = geometry.grid
        if self.downsample == "none":
            return n_neurons, rows, columns
        depth = 4 if self.downsample == "space-to-depth" else 1
        return depth * n_neurons, rows // 2, columns // 2


Blocks = str | Sequence[Block | Mapping[str, Any]]


def _convolutions(
    widths: Sequence[int], halved: Sequence[int], lookahead: int = 1
) -> tuple[Block, ...]:
    """Blocks of 3x3 filters; maps are halved after the blocks with these numbers."""
    return tuple(
        Block(
            n_gates=width,
            gates="lookahead",
            lookahead=lookahead,
            downsample="average" if number in halved else "none",
        )
        for number, width in enumerate(widths, 1)
    )


PRESETS: dict[str, tuple[Block, ...]] = {
    "small": _convolutions((64, 128, 256, 512), halved=(1, 2, 3)),
    "vgg11": _convolutions(
        (64, 128, 256, 256, 512, 512, 512, 512), halved=(1, 2, 4, 6), lookahead=2
    ),
    "imagenet": (
        Block(8, 4, 2, n_gates=64, gates="lookahead", downsample="average"),
        *_convolutions((128, 256, 512), halved=(1, 2)),
    ),
}
"""Stacks by name."""

LARGE_SIDE = 48
"""Pixels from which filters of the first block lie at every second pixel."""

PHOTO_SIDE = 128
"""Pixels from which the stack that is taken by default is ``imagenet``."""


def default_preset(image_shape: Shape | None) -> str:
    """The name of the stack for images of a shape, if none is asked for."""
    large = image_shape is not None and min(image_shape[1:]) >= PHOTO_SIDE
    return "imagenet" if large else "small"


def read_blocks(
    blocks: Blocks | None,
    instead: Mapping[str, Any] | None = None,
    image_shape: Shape | None = None,
) -> tuple[Block, ...]:
    """Return the settings of every block.

    Args:
        blocks: a name of ``PRESETS``, or one ``Block``, or mapping of its fields, per block; None
            for the preset that suits the size of the images.
        instead: settings that all blocks have instead of their own; those that are None have no
            say.
        image_shape: channels, height and width of an image, which presets are fitted to: cut down
            if it is small, coarse in the first block if it is large; None leaves them as they are.

    Raises:
        SettingError: a name that is not known, no block, or a value that cannot work.
    """
    if blocks is None:
        blocks = default_preset(image_shape)
    if not isinstance(blocks, (str, Sequence)):
        raise SettingError(f"blocks is {blocks!r}; give a name, or a list of Block")
    if isinstance(blocks, str):
        if blocks not in PRESETS:
            raise SettingError(
                f"blocks {blocks!r} is not known; choose one of {', '.join(PRESETS)}, or give a "
                f"list of Block"
            )
        found = PRESETS[blocks]
        if image_shape is not None:
            found = cut_down(_coarse(found, image_shape), image_shape)
    else:
        found = tuple(_read_block(number, block) for number, block in enumerate(blocks, 1))
    if not found:
        raise SettingError("blocks is empty; give at least one Block")
    given = {name: value for name, value in (instead or {}).items() if value is not None}
    return tuple(replace(block, **given) for block in found)


def _coarse(blocks: tuple[Block, ...], image_shape: Shape) -> tuple[Block, ...]:
    """Blocks whose first one halves large images by its stride, not by averaging its maps."""
    first = blocks[0]
    if min(image_shape[1:]) < LARGE_SIDE or first.stride > 1:
        return blocks
    halving = replace(first, filter_size=4, stride=2, downsample="none")
    return halving, *blocks[1:]


def cut_down(blocks: Sequence[Block], image_shape: Shape) -> tuple[Block, ...]:
    """Return blocks with no more pooling cells, and no smaller maps, than small images allow."""
    found, shape = [], image_shape
    for block in blocks:
        side = min(shape[1:]) + 2 * block.padding
        block = replace(block, filter_size=min(block.filter_size, side))
        grid = min(replace(block, pooling=1).geometry(shape).grid)
        downsample = block.downsample if grid > 1 else "none"
        block = replace(block, pooling=min(block.pooling, grid), downsample=downsample)
        found.append(block)
        shape = block.next_shape(block.geometry(shape), block.width)
    return tuple(found)


def _read_block(number: int, block: Block | Mapping[str, Any]) -> Block:
    if isinstance(block, Block):
        return block
    known = list(Block.__dataclass_fields__)
    for name in block if isinstance(block, Mapping) else ():
        if name not in known:
            hint = suggestion(str(name), known)
            raise SettingError(f"block {number}: there is no setting {name!r}; {hint}")
    try:
        return Block(**block)
    except SettingError as error:
        raise SettingError(f"block {number}: {error}") from error
    except TypeError as error:
        raise SettingError(
            f"block {number} is {block!r}; give a Block, or a mapping of {', '.join(known)}"
        ) from error


def plan_geometries(blocks: Sequence[Block], image_shape: Shape) -> list[PatchGeometry]:
    """Return where the patches of every block lie, if it has all the neurons it asks for.

    Raises:
        SettingError: a filter or a pooling that does not fit, with the number of its block.
    """
    geometries, shape = [], image_shape
    for number, block in enumerate(blocks, 1):
        try:
            geometry = block.geometry(shape)
        except SettingError as error:
            raise SettingError(f"block {number}: {error}") from error
        geometries.append(geometry)
        shape = block.next_shape(geometry, block.width)
        if 0 in shape and number < len(blocks):
            raise SettingError(
                f"block {number}: downsample {block.downsample!r} leaves nothing of its "
                f"{geometry.grid[0]}x{geometry.grid[1]} grid of patches; use none"
            )
    return geometries
