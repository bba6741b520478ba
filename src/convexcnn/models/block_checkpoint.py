"""Finished blocks of an unfinished stack on disk, so that an interrupted training goes on."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save as to_bytes
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.data.rows import row_blocks
from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import ConvexcnnError, RunError
from convexcnn.files import Write, not_written, sealed, unsealed, write_together
from convexcnn.models.block_kinds import KINDS
from convexcnn.models.block_training import BlockOutcome
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.models.whole_files import read_tensors
from convexcnn.patches.stream import ImageStream

NUMBER = re.compile(r"block(\d+)\.(json|safetensors)")

DAMAGES = ArithmeticError, LookupError, TypeError, ValueError
"""What a description that is not what was written raises."""


class DamagedCheckpoint(UserWarning):
    """A block that was kept is not what was written; it is trained again."""


def fingerprint(stream: ImageStream) -> str:
    """Return what tells the images and labels of one training from those of another."""
    digest = hashlib.sha256(np.ascontiguousarray(stream.labels).tobytes())
    for _, block in row_blocks(stream.images):
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def fingerprints(
    blocks: Sequence[Block], training: Any, kept: Sequence[TrainedBlock] = ()
) -> Callable[[int], str]:
    """Return a function from the number of a block to what all its training depended on.

    Those are the settings of the block and of all before it, but of none after it, so that a
    longer stack goes on after the blocks of a shorter one.

    Args:
        blocks: settings of all blocks.
        training: images and settings of the whole stack; its ``repr`` counts.
        kept: blocks that are taken over as they are, the first ones of the stack.
    """
    digest = hashlib.sha256(repr(training).encode())
    for block in kept:
        tensors, _ = block.saved()
        digest.update(to_bytes({k: v.cpu().contiguous() for k, v in tensors.items()}))
    return lambda number: hashlib.sha256(
        f"{digest.hexdigest()} {tuple(blocks[:number])}".encode()
    ).hexdigest()


class BlockCheckpoint:
    """A folder of finished blocks.

    Args:
        folder: made with the first block.
        fingerprint: of the training that a block belongs to, by its number.
        processes: that share the training. The first one reads and writes; what it finds does not
            depend on how many they were.
    """

    def __init__(
        self, folder: Path, fingerprint: Callable[[int], str], processes: Processes = ALONE
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.processes = processes

    def plan(self, number: int, steps: int) -> None:
        """Write how many steps of descent a block that begins takes, so that a second try agrees.

        Raises:
            RunError: the file cannot be written.
        """
        text = sealed({"fingerprint": self.fingerprint(number), "steps": steps})
        self._write({self._path(number, "plan.json"): lambda path: path.write_text(text, "utf-8")})

    def planned(self, number: int) -> int | None:
        """The steps that were planned for a block; None if it never began.

        Raises:
            RunError: a file of another training.
        """
        path = self._path(number, "plan.json")
        content = self._read(path)
        if content is None:
            return None
        try:
            description = unsealed(content, path)
            found, steps = description["fingerprint"], int(description["steps"])
        except (*DAMAGES, RunError) as error:
            self._forget_plan(path, error)
            return None
        if found != self.fingerprint(number):
            raise self._foreign(path)
        return max(1, steps)

    def begun(self, number: int) -> bool:
        """Whether a block was begun, or finished, in an interrupted training."""
        finished = self.processes.writes and self._path(number, "json").exists()
        told = self.processes.tell(b"%d" % finished) == b"1"
        return told or self.planned(number) is not None

    def save(self, number: int, block: TrainedBlock, scores: Tensor) -> None:
        """Write a block, and its scores (n, k) of all images.

        Raises:
            RunError: the files cannot be written.
        """
        tensors, description = block.saved()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        tensors["all_scores"] = scores.cpu().contiguous()
        description |= {
            "fingerprint": self.fingerprint(number),
            "path": list(block.path),
            "certificate": None if block.certificate is None else block.certificate.to_dict(),
            "solver": block.solver,
            "seconds": block.seconds,
        }
        content = to_bytes(tensors)
        text = sealed({**description, "tensors": hashlib.sha256(content).hexdigest()})
        self._write(
            {
                self._path(number, "safetensors"): lambda path: path.write_bytes(content),
                self._path(number, "json"): lambda path: path.write_text(text, "utf-8"),
            }
        )

    def _read(self, path: Path) -> bytes | None:
        """The content of a file, for all processes; None if it is not there.

        One that the disk does not give is as damaged as an empty one, for all processes alike.
        """
        told = b""
        if self.processes.writes and path.exists():
            told = b"+"
            with suppress(OSError):
                told += path.read_bytes()
        told = self.processes.tell(told)
        return told[1:] if told else None

    def _write(self, writers: Mapping[Path, Write]) -> None:
        if not self.processes.writes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_together(writers)
        except OSError as error:
            raise not_written(self.folder, error, "a finished block ") from error

    def _foreign(self, path: Path) -> RunError:
        return RunError(
            f"{path} is of a training with other images or settings; "
            f"empty {self.folder} to train anew"
        )

    def _forget_plan(self, path: Path, error: Exception) -> None:
        """Warn of a damaged plan, and remove it: the block may get another number of steps."""
        if not self.processes.writes:
            return
        text = f"{path} is damaged ({error}); how long the block is trained is decided anew"
        warnings.warn(text, DamagedCheckpoint, stacklevel=2)
        _remove(path)

    def _give_up(self, number: int, error: Exception) -> None:
        """Warn of a damaged block, and remove it and what came after it: they are trained again."""
        if not self.processes.writes:
            return
        warnings.warn(
            f"block {number} that was kept in {self.folder} is damaged ({error}); training goes on "
            f"from the block before it",
            DamagedCheckpoint,
            stacklevel=2,
        )
        for path in self.folder.glob("block*"):
            found = NUMBER.fullmatch(path.name)
            if found is None or int(found[1]) < number:
                continue
            _remove(path)

    def load(self, number: int, settings: Block, stream: ImageStream) -> BlockOutcome | None:
        """Return a block that was saved, and its scores of all images; None if none was.

        A block whose files are damaged is as good as none; a warning says so.

        Args:
            number: of the block, from 1.
            settings: of the block.
            stream: its input.

        Raises:
            RunError: files of another training.
        """
        path = self._path(number, "json")
        content = self._read(path)
        if content is None:
            return None
        try:
            description = unsealed(content, path)
            if description["fingerprint"] == self.fingerprint(number):
                return self._restored(number, settings, stream, description)
        except (*DAMAGES, OSError, ConvexcnnError) as error:
            self._give_up(number, error)
            return None
        raise self._foreign(path)

    def _restored(
        self, number: int, settings: Block, stream: ImageStream, description: dict[str, Any]
    ) -> BlockOutcome:
        """A saved block whose description is sound."""
        path = self._path(number, "safetensors")
        content = self._read(path)
        if content is None or hashlib.sha256(content).hexdigest() != description["tensors"]:
            raise RunError(f"{path} is not what was written")
        tensors = read_tensors(path, content)
        channels, height, width = stream.images.shape[1:]
        block = KINDS[settings.head].restored(
            settings, (channels, height, width), stream.n_classes, tensors, description
        )
        block = replace(completed(block, description), seconds=dict(description["seconds"]))
        return BlockOutcome(block.to(stream.device), tensors["all_scores"])

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"block{number}.{kind}"


def _remove(path: Path) -> None:
    """Remove a damaged file; RunError if that cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as why:
        raise RunError(
            f"{path} is damaged and cannot be removed ({why.strerror}); remove it yourself"
        ) from why


def completed(block: TrainedBlock, description: Mapping[str, Any]) -> TrainedBlock:
    """A restored block with what a saved model leaves out: its path, certificate and solver."""
    certificate = description["certificate"]
    return replace(
        block,
        path=tuple(description["path"]),
        certificate=None if certificate is None else Certificate(**certificate),
        solver=description["solver"],
    )
