"""Files that are written whole or not at all, and tensors that are checked when read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from convexcnn.errors import RunError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it to disk, and rename it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path, content: bytes | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: of the file.
        content: of the file, if another process has read it.

    Raises:
        RunError: it is missing, damaged, or holds what is not finite float32.
    """
    try:
        tensors = load_file(path) if content is None else load(content)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; is this the folder of a finished run?") from None
    except (SafetensorError, OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); train the model again") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path}: {name} is not finite float32; train the model again")
    return tensors
