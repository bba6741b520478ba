"""The files that pages of the documentation speak of, small enough to train on in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import official_files
from convexcnn.cli.application import main
from small import stripes

CLASSES = ("church", "tench", "truck")


def write_pictures(folder: Path, per_class: int = 20, size: int = 40) -> None:
    """Class folders of striped JPEG files."""
    images, labels = stripes(per_class * len(CLASSES), len(CLASSES), size, 3)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(folder / CLASSES[label] / f"{number}.jpg")


def fit(*arguments: str) -> None:
    """Train by command."""
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *arguments])
    assert exit_.value.code == 0


def own_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pictures/<class>/``, ``new.jpg`` and ``more-pictures/``."""
    write_pictures(folder / "pictures")
    (folder / "more-pictures").mkdir()
    for number, name in enumerate(CLASSES):
        source = folder / "pictures" / name / f"{number}.jpg"
        (folder / "more-pictures" / f"{name}.jpg").write_bytes(source.read_bytes())
    (folder / "new.jpg").write_bytes((folder / "pictures" / "tench" / "1.jpg").read_bytes())


def official_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``DATA`` with CIFAR-10's official files, which the environment names too."""
    official_files.write_cifar10_binary(folder / "DATA" / "cifar-10-batches-bin")
    monkeypatch.setenv("CONVEXCNN_DATA", str(folder / "DATA"))


def stacks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10, and ``two.toml`` and ``three.toml`` with as many blocks."""
    official_cifar(folder, monkeypatch)
    block = '[[blocks]]\nn_gates = 4\ngates = "patches"\n'
    for number, name in ((2, "two"), (3, "three")):
        text = 'model = "layerwise"\n' + number * block
        (folder / f"{name}.toml").write_text(text, "utf-8")


def every_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``DATA``, a folder of class folders, and pictures."""
    own_pictures(folder, monkeypatch)
    (folder / "new.jpg").rename(folder / "photo.jpg")
    write_pictures(folder / "DATA", size=32)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``DATA``, and ``RUN``, a classifier trained on it."""
    write_pictures(folder / "DATA", size=32)
    fit("DATA", "--out", "RUN", "--n-gates", "8", "--no-certificate")


def explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10, ``RUN`` and ``STACK`` trained on it, and ``photo.jpg``."""
    own_pictures(folder, monkeypatch)
    (folder / "new.jpg").rename(folder / "photo.jpg")
    official_cifar(folder, monkeypatch)
    fit("cifar10", "--out", "RUN", "--n-gates", "8", "--no-certificate")
    fit("cifar10", "--out", "STACK", "--model", "layerwise", "--n-gates", "8", "--no-certificate")


SCENES: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "README.md": own_pictures,
    "docs/certificates.md": trained,
    "docs/cli.md": every_command,
    "docs/explain.md": explained,
    "docs/index.md": own_pictures,
    "docs/layerwise.md": stacks,
    "docs/scaling.md": own_pictures,
    "docs/paper.md": official_cifar,
    "docs/tutorial.md": own_pictures,
}
"""What is laid out before the examples of a page run, by page."""
