"""The same command with the same seed, on the same machine, writes the same model to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from commands import typed
from small import stripes_file

LEARNED = ("model.safetensors", "config.json", "filters.safetensors")
KINDS = {
    "two-layer": ("--n-gates", "3", "--filter-size", "3", "--whiten", "4"),
    "stack": ("--model", "layerwise", "--n-gates", "3"),
}


def train(data: Path, out: Path, *options: str) -> dict[str, bytes]:
    assert typed("fit", data, "--out", out, *options).code == 0
    return {name: (out / name).read_bytes() for name in LEARNED}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_bit(kind, tmp_path):
    data = stripes_file(tmp_path / "stripes.npz", 45)
    first = train(data, tmp_path / "first", *KINDS[kind])
    # what ran before in this process, and its own random numbers, are of no account
    torch.manual_seed(99)
    second = train(data, tmp_path / "second", *KINDS[kind])
    assert first == second
    other = train(data, tmp_path / "other", *KINDS[kind], "--seed", "1")
    assert other["model.safetensors"] != first["model.safetensors"]
