"""Which device a model is trained on."""

from __future__ import annotations

import re

import torch

from convexcnn.distributed import here
from convexcnn.errors import SettingError

DEVICES = r"cpu|cuda(:(0|[1-9][0-9]{0,3}))?"
"""What torch takes for one of the devices that a model can be trained on."""


def resolve_device(device: str) -> str:
    """Return ``cpu`` or a CUDA device that is there; ``auto`` takes CUDA if it can.

    Raises:
        SettingError: a device that does not exist here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(DEVICES, device):
        raise SettingError(f"device {device!r} is not known; use cpu, cuda, cuda:1 or auto")
    if device != "cpu":
        _require_cuda(device)
    number, count = here()
    if device == "cuda" and count > 1:
        if count > torch.cuda.device_count():
            raise SettingError(
                f"{count} processes were started here, and there are {torch.cuda.device_count()} "
                "CUDA devices; start one per device, or use device cpu"
            )
        return f"cuda:{number}"
    return device


def _require_cuda(device: str) -> None:
    if not torch.cuda.is_available():
        raise SettingError(f"device {device} is not there: torch finds no CUDA; use cpu or auto")
    there = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= there:
        raise SettingError(
            f"device {device} is not there: torch finds {there} CUDA devices, counted from 0"
        )
