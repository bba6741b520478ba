"""Finished blocks of an unfinished stack on disk, so that an interrupted training goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from convexcnn.certificates.certificate import Certificate
from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import DataError, RunError
from convexcnn.models.block_kinds import KINDS
from convexcnn.models.block_training import BlockOutcome
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.models.whole_files import read_tensors, write_whole
from convexcnn.patches.stream import ImageStream

HASHED_AT_ONCE = 1024


def fingerprint(stream: ImageStream, *settings: Any) -> str:
    """Return what tells one training from another: of its images, labels and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(np.ascontiguousarray(stream.labels).tobytes())
    for start in range(0, len(stream.images), HASHED_AT_ONCE):
        rows = stream.images[start : start + HASHED_AT_ONCE]
        digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


class BlockCheckpoint:
    """A folder of finished blocks.

    Args:
        folder: made with the first block.
        fingerprint: of the training that the blocks belong to.
        processes: that share the training. The first one reads and writes; what it finds does not
            depend on how many they were.
    """

    def __init__(self, folder: Path, fingerprint: str, processes: Processes = ALONE) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.processes = processes

    def plan(self, number: int, steps: int) -> None:
        """Write how many steps of descent a block that begins takes, so that a second try agrees.

        Raises:
            RunError: the file cannot be written.
        """
        text = json.dumps({"fingerprint": self.fingerprint, "steps": steps})
        self._write(self._path(number, "plan.json"), lambda path: path.write_text(text, "utf-8"))

    def planned(self, number: int) -> int | None:
        """The steps that were planned for a block; None if it never began.

        Raises:
            RunError: a file of another training, or a damaged one.
        """
        path = self._path(number, "plan.json")
        content = self._read(path)
        if content is None:
            return None
        try:
            description = json.loads(content)
            found, steps = description["fingerprint"], int(description["steps"])
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({error}); empty {self.folder} to train anew"
            ) from error
        if found != self.fingerprint:
            raise self._foreign(path)
        return max(1, steps)

    def save(self, number: int, block: TrainedBlock, scores: Tensor) -> None:
        """Write a block, and its scores (n, k) of all images.

        Raises:
            RunError: the files cannot be written.
        """
        tensors, description = block.saved()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        tensors["all_scores"] = scores.cpu().contiguous()
        description |= {
            "fingerprint": self.fingerprint,
            "path": list(block.path),
            "certificate": None if block.certificate is None else block.certificate.to_dict(),
            "solver": block.solver,
            "seconds": block.seconds,
        }
        text = json.dumps(description)
        self._write(self._path(number, "safetensors"), lambda path: save_file(tensors, path))
        self._write(self._path(number, "json"), lambda path: path.write_text(text, "utf-8"))

    def _read(self, path: Path) -> bytes | None:
        """The content of a file, for all processes; None if it is not there."""
        content = path.read_bytes() if self.processes.writes and path.exists() else b""
        return self.processes.tell(content) or None

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        if not self.processes.writes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, write)
        except OSError as error:
            raise RunError(
                f"{self.folder}: a finished block cannot be written ({error.strerror})"
            ) from error

    def _foreign(self, path: Path) -> RunError:
        return RunError(
            f"{path} is of a training with other images or settings; "
            f"empty {self.folder} to train anew"
        )

    def load(self, number: int, settings: Block, stream: ImageStream) -> BlockOutcome | None:
        """Return a block that was saved, and its scores of all images; None if none was.

        Args:
            number: of the block, from 1.
            settings: of the block.
            stream: its input.

        Raises:
            RunError: files of another training, or damaged ones.
        """
        path = self._path(number, "json")
        content = self._read(path)
        if content is None:
            return None
        advice = f"empty {self.folder} to train anew"
        try:
            description = json.loads(content)
            found = description["fingerprint"]
            if found == self.fingerprint:
                file = self._path(number, "safetensors")
                tensors = read_tensors(file, self._read(file))
                channels, height, width = stream.images.shape[1:]
                block = KINDS[settings.head].restored(
                    settings, (channels, height, width), stream.n_classes, tensors, description
                )
                completed = _completed(block, description).to(stream.device)
                return BlockOutcome(completed, tensors["all_scores"])
        except (OSError, LookupError, TypeError, ValueError, RunError, DataError) as error:
            raise RunError(f"{path}: block {number} is damaged ({error}); {advice}") from error
        raise self._foreign(path)

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"block{number}.{kind}"


def _completed(block: TrainedBlock, description: dict[str, Any]) -> TrainedBlock:
    """A restored block with what only a checkpoint keeps."""
    certificate = description["certificate"]
    return replace(
        block,
        path=tuple(description["path"]),
        certificate=None if certificate is None else Certificate(**certificate),
        solver=description["solver"],
        seconds=dict(description["seconds"]),
    )
