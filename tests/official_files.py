"""Small files in the official formats, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

CIFAR10_NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def cifar_records(n: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072) and labels (n,) that go round all classes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    return pixels, np.arange(n) % n_classes


def write_cifar10_binary(folder: Path, n: int = 20) -> None:
    """The binary version of CIFAR-10 with n images per file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for seed, name in enumerate(files):
        pixels, labels = cifar_records(n, 10, seed)
        np.column_stack([labels, pixels]).astype(np.uint8).tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")


def write_cifar100_binary(folder: Path, n: int = 200) -> None:
    """The binary version of CIFAR-100: a coarse and a fine label before the pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(["train.bin", "test.bin"]):
        pixels, labels = cifar_records(n, 100, seed)
        np.column_stack([labels // 5, labels, pixels]).astype(np.uint8).tofile(folder / name)
    names = "".join(f"class {i}\n" for i in range(100))
    (folder / "fine_label_names.txt").write_text(names)


def write_cifar10_python(folder: Path, n: int = 20) -> None:
    """The python version of CIFAR-10, as Python 2 pickled it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for seed, name in enumerate(files):
        pixels, labels = cifar_records(n, 10, seed)
        batch = {
            "batch_label": name,
            "labels": labels.tolist(),
            "data": pixels,
            "filenames": [f"image_{i}.png" for i in range(n)],
        }
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"num_cases_per_batch": 10000, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))


def write_cifar100_python(folder: Path, n: int = 200) -> None:
    """The python version of CIFAR-100, as Python 2 pickled it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(["train", "test"]):
        pixels, labels = cifar_records(n, 100, seed)
        batch = {
            "filenames": [f"image_{i}.png" for i in range(n)],
            "batch_label": f"{name} batch",
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": np.asfortranarray(pixels),
        }
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {
        "fine_label_names": [f"class {i}" for i in range(100)],
        "coarse_label_names": [f"group {i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(python2_pickle(meta))


def python2_pickle(value: Any) -> bytes:
    """What Python 2's ``cPickle.dumps(value, 2)`` writes, opcode by opcode, without memo."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_pickled(key) + _pickled(item) for key, item in value.items())
        return b"}q\x00(" + items + b"u"
    if isinstance(value, list):
        return b"]q\x01(" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        if len(text) < 256:
            return b"U" + bytes([len(text)]) + text + b"q\x02"
        return b"T" + struct.pack("<i", len(text)) + text + b"r\x00\x01\x00\x00"
    if isinstance(value, np.ndarray):
        return _pickled_array(value)
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def _pickled_array(array: np.ndarray) -> bytes:
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    empty = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    state = b"(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    dtype = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87R" + state
    shape = _pickled(array.shape[0]) + _pickled(array.shape[1]) + b"\x86"
    pixels = _pickled(array.tobytes(order="F" if fortran else "C"))
    return empty + b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89") + pixels + b"tb"


def idx_bytes(array: np.ndarray) -> bytes:
    """An idx file of unsigned bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, n_train: int = 30, n_test: int = 20) -> None:
    """The four files of MNIST, 28x28, with labels that go round all classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n) % 10))
