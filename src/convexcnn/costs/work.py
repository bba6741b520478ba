"""The units of a plan: pieces of work of one kind, and the phases that they make up."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from convexcnn.models.stack_settings import Block
from convexcnn.models.time_plan import BlockCost, HeadRates
from convexcnn.patches.extract import PatchGeometry


@dataclass(frozen=True)
class FeatureShape:
    """What building Phi depends on.

    Args:
        geometry: where patches and pooling cells lie.
        rank: directions that a raw patch is projected on, r.
        dim: numbers per projected patch, d: r, or one more with a constant.
        gates: g.
    """

    geometry: PatchGeometry
    rank: int
    dim: int
    gates: int

    @property
    def features(self) -> int:
        """m = cells g d."""
        return self.geometry.n_cells * self.gates * self.dim


@dataclass(frozen=True)
class BlockShape:
    """What descent and responses of a block of a stack depend on.

    Args:
        block: its settings, without betas, which have no part in it.
        geometry: where patches and pooling cells lie.
        classes: k.
    """

    block: Block
    geometry: PatchGeometry
    classes: int

    @classmethod
    def of(
        cls, block: Block, geometry: PatchGeometry, classes: int, *, last: bool = False
    ) -> BlockShape:
        """The last block has nothing to look ahead to."""
        gates = "sgd" if last and block.gates == "lookahead" else block.gates
        return cls(replace(block, betas=None, gates=gates), geometry, classes)


@dataclass(frozen=True)
class Work:
    """Work that one rate limits.

    Args:
        kind: names the rate, see ``hardware.KINDS``.
        flops: floating-point operations: a multiplication and an addition are two.
        bytes: that move between processor and memory; read where no rate of ``kind`` is measured.
        files: image files to decode.
        shape: what the rate depends on; probes measure at this shape.
        divides: whether several processes share it, because it is so much per image.
    """

    kind: str
    flops: float = 0.0
    bytes: float = 0.0
    files: float = 0.0
    shape: Hashable = None
    divides: bool = True


def repeated(work: Iterable[Work], times: float) -> list[Work]:
    """The same work so many times."""
    return [
        replace(one, flops=times * one.flops, bytes=times * one.bytes, files=times * one.files)
        for one in work
    ]


class Hardware(Protocol):
    """What turns work into seconds."""

    def seconds(self, work: Work) -> float: ...

    def block_cost(self, shape: BlockShape) -> BlockCost: ...

    def head_rates(self, classes: int) -> HeadRates: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Phase:
    """A step of a training that is timed by itself.

    Args:
        name: as in the ``phases`` of a run's `result.json`.
        work: what is done.
        memory: bytes that are resident at its peak, without Python and libraries.
        block: of a stack, counted from 1.
        fixed: seconds that no rate explains: a named constant, or minutes that were asked for.
        known: whether the number of steps can be foreseen; if not, the work is a lower bound.
        note: what a reader should know.
    """

    name: str
    work: tuple[Work, ...] = ()
    memory: float = 0.0
    block: int | None = None
    fixed: float = 0.0
    known: bool = True
    note: str = field(default="", kw_only=True)

    @property
    def title(self) -> str:
        return self.name if self.block is None else f"block {self.block}: {self.name}"

    @property
    def flops(self) -> float:
        return sum(work.flops for work in self.work)

    def seconds(self, hardware: Hardware) -> float:
        """Foreseen time on some hardware."""
        return self.fixed + sum(hardware.seconds(work) for work in self.work)
