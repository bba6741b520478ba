"""Tensors in files, which are checked when they are read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from convexcnn.errors import RunError


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
