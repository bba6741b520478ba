"""Tensors in files: what the disk says when they are written, and checks when they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from convexcnn.errors import RunError
from convexcnn.files import not_readable, not_written


def read_tensors(path: Path, content: bytes | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: of the file.
        content: of the file, if another process has read it.

    Raises:
        RunError: it is missing, cannot be read, is damaged, or holds what is not finite float32.
    """
    if content is None:
        _require_readable(path)
    try:
        tensors = load_file(path) if content is None else load(content)
    except (SafetensorError, OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); train the model again") from error
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path}: {name} is not finite float32; train the model again")
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write contiguous tensors of the CPU to a safetensors file.

    Raises:
        OSError: the disk does not take it, as of any other file.
    """
    with _disk_errors(path):
        save_file(tensors, path)


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write NumPy arrays to a safetensors file.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with _disk_errors(path):
            save_arrays(arrays, path)
    except OSError as error:
        raise not_written(path, error) from error


def _require_readable(path: Path) -> None:
    """Say why a file cannot be opened; safetensors says of every such file that it is missing."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        raise RunError(f"{path} is missing; is this the folder of a finished run?") from None
    except OSError as error:
        raise not_readable(path, error) from error


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors says of the disk as the error that it is."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
