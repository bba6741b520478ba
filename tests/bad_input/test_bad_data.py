"""Data sets that are damaged, inconsistent or hostile, in every format that is read."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import FAILED, WRONG_USE, Bad, check, class_folders, npz, picture, truncate
from PIL import Image

from official_files import (
    idx_bytes,
    python2_pickle,
    write_cifar10_binary,
    write_cifar10_python,
    write_cifar100_binary,
    write_cifar100_python,
    write_idx_set,
)

IMAGES = np.zeros((12, 8, 8), np.uint8)
LABELS = np.arange(12) % 3
NO_TEXT = np.arange(0x110000, 0x110003, dtype=np.uint32).view("U1")
Prepare = Callable[[Path], object]


def arrays(**changes: object) -> Prepare:
    return lambda folder: npz(folder, **changes)


def after(*steps: Prepare) -> Prepare:
    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def write(name: str, content: str | bytes) -> Prepare:
    data = content.encode() if isinstance(content, str) else content

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return prepare


def cut(name: str, n: int = 7) -> Prepare:
    return lambda folder: truncate(folder / name, n)


def remove(name: str) -> Prepare:
    return lambda folder: (folder / name).unlink()


def table(text: str) -> Prepare:
    """`bad.csv`, beside two good pictures."""
    return after(
        lambda folder: [picture(folder / f"{n}.png") for n in "ab"], write("bad.csv", text)
    )


# .npz


class Bomb:
    """Runs a command when unpickled; it must never be."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def npz_of_objects(folder: Path) -> None:
    np.savez(folder / "bad.npz", images=np.array([Bomb()], object), labels=LABELS)


def npz_that_lies(folder: Path) -> None:
    """A header that says a terabyte and a body of nothing."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)}
    )
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", b"")


def npz_bomb(folder: Path) -> None:
    """A directory that claims ten terabytes."""
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("images.npy", b"")
        archive.filelist[0].file_size = 10 * 2**40


def npz_lzma(folder: Path) -> None:
    """A member packed by LZMA, which NumPy never does, and damaged."""
    with zipfile.ZipFile(folder / "bad.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", bytes(500))
    content = bytearray((folder / "bad.npz").read_bytes())
    start = content.index(b"images.npy") + 20
    content[start : start + 8] = b"\xff" * 8
    (folder / "bad.npz").write_bytes(bytes(content))


def npz_of(head: bytes) -> Prepare:
    """A member whose .npy header is text of our own."""
    size = struct.pack("<H", len(head))

    def prepare(folder: Path) -> None:
        with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
            archive.writestr("images.npy", b"\x93NUMPY\1\0" + size + head)
            archive.writestr("labels.npy", b"")

    return prepare


def zip_escape(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("../escaped.npy", b"x")


NPZ = [
    Bad("data info none.npz", "no data set, folder or file none.npz"),
    Bad("data info bad.npz", "not a readable .npz", write("bad.npz", b"")),
    Bad("data info bad.npz", "not a readable .npz", write("bad.npz", b"PK\x03\x04junk")),
    Bad("data info bad.npz", "not a readable .npz", after(arrays(), cut("bad.npz"))),
    Bad("data info bad.npz", "not a readable .npz", npz_of_objects),
    Bad("data info bad.npz", "not a readable .npz", npz_that_lies),
    Bad("data info bad.npz", "not a readable .npz", npz_lzma),
    Bad("data info bad.npz", "not a readable .npz", npz_of(b"{'descr': " + 3 * b"'")),
    Bad("data info bad.npz", "not a readable .npz", npz_of(b"(" * 9000)),
    Bad("data info bad.npz", "not a readable .npz", npz_of(b"-" * 9000 + b"1")),
    Bad(
        "data info bad.npz",
        "not a readable .npz",
        npz_of(b"{'descr': [('a', ()), 3], 'fortran_order': 0, 'shape': (-1,)}"),
    ),
    Bad("data info bad.npz", "more than this machine's memory", npz_bomb),
    Bad("data info bad.npz", "no images and no labels", zip_escape),
    Bad("data info bad.npz", "has images but no labels", arrays(labels=None)),
    Bad("data info bad.npz", "has labels but no images", arrays(images=None)),
    Bad("data info bad.npz", "12 images but 11 labels", arrays(labels=LABELS[:11])),
    Bad("data info bad.npz", "labels have shape (12, 3)", arrays(labels=np.eye(3)[LABELS])),
    Bad("data info bad.npz", "NaN or fractions", arrays(labels=LABELS + 0.5)),
    Bad("data info bad.npz", "NaN or fractions", arrays(labels=np.full(12, np.nan))),
    Bad("data info bad.npz", "no UTF-8", arrays(labels=np.array([b"\xff", b"b", b"c"])[LABELS])),
    Bad("data info bad.npz", "characters that do not exist", arrays(labels=NO_TEXT[LABELS])),
    Bad("data info bad.npz", "classes hold characters", arrays(classes=NO_TEXT)),
    Bad("data info bad.npz", "labels hold complex128", arrays(labels=LABELS * 1j)),
    Bad("data info bad.npz", "one class only", arrays(labels=np.zeros(12, int))),
    Bad("data info bad.npz", "X holds <U1", arrays(images=np.full((12, 8, 8), "a"))),
    Bad("data info bad.npz", "X has shape (12,)", arrays(images=LABELS)),
    Bad("data info bad.npz", "X has shape (12, 1, 0, 8)", arrays(images=IMAGES[:, :0])),
    Bad("data info bad.npz", "no image shape", arrays(images=IMAGES.reshape(12, 64))),
    Bad("data info bad.npz", "NaN or infinite", arrays(images=np.full((12, 8, 8), np.nan))),
    Bad("data info bad.npz", "no training images", arrays(images=IMAGES[:0], labels=LABELS[:0])),
    Bad("data info bad.npz", "only test_images", arrays(test_images=IMAGES)),
    Bad("data info bad.npz", "only test_labels", arrays(test_labels=LABELS)),
    Bad(
        "data info bad.npz",
        "out of range",
        arrays(test_images=IMAGES, test_labels=LABELS + 5),
    ),
    Bad(
        "data info bad.npz",
        "make them the same",
        arrays(test_images=IMAGES[:, :4], test_labels=LABELS),
    ),
    Bad("data info bad.npz", "not all different", arrays(classes=["a", "a", "b"])),
    Bad("data info bad.npz", "out of range", arrays(classes=["a", "b"])),
    Bad("data info bad.npz --limit 1", "give at least 3", arrays(), WRONG_USE),
]

# folders and pictures


def png_bomb(folder: Path, side: int = 60_000) -> None:
    """A picture whose header says 3.6 billion pixels, in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check_sum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check_sum

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    (folder / "bad/ash/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def large_png(folder: Path) -> None:
    """Fewer pixels than Pillow refuses, more than any camera makes."""
    png_bomb(folder, 12_000)


def script_picture(folder: Path) -> None:
    """PostScript, which Pillow would hand to another program."""
    write("bad/ash/x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")(folder)


def dangling(folder: Path) -> None:
    (folder / "bad/ash/gone.png").symlink_to(folder / "nowhere.png")


FOLDERS = [
    Bad("data info bad", "has no images", lambda f: (f / "bad").mkdir()),
    Bad("data info bad", "images but no class folders", lambda f: picture(f / "bad/0.png")),
    Bad("data info bad", "has no images", after(class_folders, lambda f: (f / "bad/elm").mkdir())),
    Bad("data info bad", "one class only", lambda f: class_folders(f, "ash")),
    Bad("data info bad", "no images", lambda f: write("bad/ash/notes.txt", "x")(f)),
    Bad(
        "data info bad",
        "of mixed size",
        after(class_folders, lambda f: picture(f / "bad/ash/9.png", (9, 8))),
    ),
    Bad(
        "data info bad",
        "cannot be read as an image",
        after(class_folders, write("bad/ash/x.png", b"")),
    ),
    Bad(
        "data info bad",
        "cannot be read as an image",
        after(class_folders, write("bad/ash/x.jpg", "text")),
    ),
    Bad(
        "data info bad",
        "cannot be read as an image",
        after(class_folders, cut("bad/ash/0.png", 30)),
    ),
    Bad("data info bad", "cannot be read as an image", after(class_folders, script_picture)),
    Bad("data info bad", "exceeds limit of", after(class_folders, png_bomb)),
    Bad("data info bad --image-size 8", "exceeds limit of", after(class_folders, png_bomb)),
    Bad("data info bad", "12000x12000 pixels are too many", after(class_folders, large_png)),
    Bad("data info bad --image-size 0", "0 is not in the range", class_folders, WRONG_USE),
    Bad("data info bad --image-size 999999", "set TMPDIR to a larger disk", class_folders),
    Bad(
        "data info bad",
        "which has no training images",
        after(
            lambda f: [picture(f / "bad/train" / c / "0.png") for c in ("ash", "beech")],
            lambda f: [picture(f / "bad/test" / c / "0.png") for c in ("ash", "oak")],
        ),
    ),
    Bad("data info bad/ash/0.png", "is a file of another kind", class_folders),
    Bad("data info bad.zip", "is a file of another kind", write("bad.zip", b"PK")),
    Bad("data info bad.pkl", "is a file of another kind", write("bad.pkl", pickle.dumps(Bomb()))),
    Bad("predict {run} bad.png", "cannot be read as an image", write("bad.png", "text")),
    Bad("predict {run} bad", "exceeds limit of", after(class_folders, png_bomb)),
    Bad("predict {run} bad/ash/gone.png", "no such file", after(class_folders, dangling)),
    Bad("explain {run} bad.png", "cannot be read as an image", write("bad.png", "text")),
]

# tables

TABLES = [
    Bad("data info bad.csv", "no column path and no column label", write("bad.csv", "")),
    Bad("data info bad.csv", "has no column label", table("path,class\na.png,x\n")),
    Bad("data info bad.csv", "has no column path", table("file,label\na.png,x\n")),
    Bad("data info bad.csv", "lists no training images", table("path,label\n")),
    Bad("data info bad.csv", "line 3: no label", table("path,label\na.png,x\nb.png,\n")),
    Bad("data info bad.csv", "line 2: no path", table("path,label\n,x\n")),
    Bad("data info bad.csv", "line 2: no label", table("path,label\na.png\n")),
    Bad("data info bad.csv", "unknown split dev", table("path,label,split\na.png,x,dev\n")),
    Bad("data info bad.csv", "no such file", table("path,label\nc.png,x\na.png,y\n")),
    Bad("data info bad.csv", "one class only", table("path,label\na.png,x\nb.png,x\n")),
    Bad("data info bad.csv", "in UTF-8", write("bad.csv", b"path,label\n\xff\xfe,x\n")),
    Bad("data info bad.csv", "as a table", write("bad.csv", b'path,label\n"' + b"a" * 140_000)),
    Bad("data info bad.csv", "\\x00: there is no", table("path,label\n\0,x\na.png,y\n")),
    Bad("data info bad.csv", "\\x1b[2J: there is no", table("path,label\n\33[2J,x\na.png,y\n")),
    Bad("data info bad.csv", "name too long", table(f"path,label\n{'a' * 300}.png,x\na.png,y\n")),
    Bad("data info bad.csv", "one class only", table(f"path,label\na.png,{'1' * 5000}\n")),
    Bad("data info bad.csv", "has no images", lambda f: (f / "bad.csv").mkdir()),
    Bad("data info bad.csv", "cannot be read as an image", table("path,label\nbad.csv,x\n")),
]

# official files


def mnist(*steps: Prepare) -> Prepare:
    return after(lambda folder: write_idx_set(folder), *steps)


def cifar(writer: Callable[..., None], *steps: Prepare) -> Prepare:
    return after(lambda folder: writer(folder, 200), *steps)


def batch(value: object, name: str = "data_batch_1") -> Prepare:
    return write(name, python2_pickle(value) if isinstance(value, dict) else pickle.dumps(value))


TRAIN, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
INFO_MNIST, INFO_10 = "data info mnist --root .", "data info cifar10 --root ."
INFO_100 = "data info cifar100 --root ."
PIXELS = np.zeros((10, 3072), np.uint8)
TEN = list(range(10))

DOUBLED = b"\x80\2}(U\1a]q\0" + 40 * b"U\1b](h\0h\0eq\0" + b"U\x0blabel_names](h\0eu."
"""A list of itself twice, forty times over: a terabyte of text for whoever writes it out."""

OFFICIAL = [
    Bad(INFO_MNIST, "say --download"),
    Bad(INFO_MNIST, f"has no {TRAIN}", mnist(remove(TRAIN))),
    Bad(INFO_MNIST, "truncated, ", mnist(cut(TRAIN))),
    Bad(INFO_MNIST, "truncated within its header", mnist(write(TRAIN, b"\0\0\x08\x03\0"))),
    Bad(INFO_MNIST, "truncated within its header", mnist(write(TRAIN, b""))),
    Bad(INFO_MNIST, "wrong magic number", mnist(write(TRAIN, idx_bytes(np.arange(30))))),
    Bad(INFO_MNIST, "longer than", mnist(write(TRAIN_LABELS, idx_bytes(np.zeros(30)) + b"x"))),
    Bad(INFO_MNIST, "29 labels for the 30", mnist(write(TRAIN_LABELS, idx_bytes(np.zeros(29))))),
    Bad(INFO_MNIST, "out of range 0..9", mnist(write(TRAIN_LABELS, idx_bytes(np.full(30, 10))))),
    Bad(
        INFO_MNIST,
        "more than this machine's memory",
        mnist(write(TRAIN, b"\0\0\x08\x03" + b"\xff\xff\xff\xff" * 3)),
    ),
    Bad(
        INFO_MNIST,
        "not gzip",
        mnist(remove(TRAIN), write(f"{TRAIN}.gz", b"\x1f\x8b" + bytes(50))),
    ),
    Bad(INFO_10, "say --download"),
    Bad(INFO_10, "has no test_batch.bin", cifar(write_cifar10_binary, remove("test_batch.bin"))),
    Bad(INFO_10, "no whole number", cifar(write_cifar10_binary, cut("data_batch_3.bin"))),
    Bad(INFO_10, "no whole number", cifar(write_cifar10_binary, write("data_batch_3.bin", b""))),
    Bad(
        INFO_10,
        "out of range 0..9",
        cifar(write_cifar10_binary, write("data_batch_1.bin", b"\x0a" + bytes(3072))),
    ),
    Bad(
        INFO_10,
        "2 class names instead of 10",
        cifar(write_cifar10_binary, write("batches.meta.txt", "ash\nbeech\n")),
    ),
    Bad(INFO_100, "no whole number", cifar(write_cifar100_binary, cut("train.bin"))),
    Bad(
        INFO_100,
        "out of range 0..99",
        cifar(write_cifar100_binary, write("train.bin", b"\xff" * 3074)),
    ),
    Bad(INFO_100, "truncated", cifar(write_cifar100_python, cut("train", 5000))),
    Bad(INFO_10, "truncated or not a CIFAR", cifar(write_cifar10_python, cut("data_batch_2", 99))),
    Bad(INFO_10, "truncated or not a CIFAR", cifar(write_cifar10_python, write("test_batch", ""))),
    Bad(
        INFO_10,
        "nothing in it was run",
        cifar(write_cifar10_python, batch(Bomb())),
    ),
    Bad(
        INFO_10,
        "asks for posix.system",
        cifar(write_cifar10_python, write("data_batch_1", b"cposix\nsystem\n(S'touch x'\ntR.")),
    ),
    Bad(
        INFO_10,
        "asks for builtins.eval",
        cifar(write_cifar10_python, write("batches.meta", b"cbuiltins\neval\n(S'1'\ntR.")),
    ),
    *(
        Bad(
            INFO_10,
            "0 class names instead of 10",
            cifar(write_cifar10_python, batch({"label_names": names}, "batches.meta")),
        )
        for names in (["a"] * 9 + [1], [["a"]] * 10, "abcdefghij", 7)
    ),
    Bad(
        INFO_10,
        "0 class names instead of 10",
        cifar(write_cifar10_python, write("batches.meta", DOUBLED)),
    ),
    Bad(INFO_10, "holds no dictionary", cifar(write_cifar10_python, batch([1, 2]))),
    Bad(INFO_10, "has no data", cifar(write_cifar10_python, batch({"labels": TEN}))),
    Bad(
        INFO_10,
        "do not match",
        cifar(write_cifar10_python, batch({"labels": TEN[:9], "data": PIXELS})),
    ),
    Bad(
        INFO_10,
        "not all whole numbers",
        cifar(write_cifar10_python, batch({"labels": ["a"] * 10, "data": PIXELS})),
    ),
    Bad(
        INFO_10,
        "out of range 0..9",
        cifar(write_cifar10_python, batch({"labels": [70000] * 10, "data": PIXELS})),
    ),
]

TABLE = [*NPZ, *FOLDERS, *TABLES, *OFFICIAL]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case.arguments} | {case.message}")
def test_it_is_refused_in_one_line(case, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    check(case, tmp_path, places)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("skip", ["", "--skip-bad"])
def test_a_folder_of_nothing_but_bad_pictures_is_refused(skip, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ash", "beech":
        write(f"bad/{name}/0.png", "text")(tmp_path)
    message = "none of 2 images can be read" if skip else "cannot be read as an image"
    check(Bad(f"data info bad {skip}", message, code=FAILED), tmp_path, places)


def test_a_large_picture_is_read_small(tmp_path):
    """Large, but no bomb: refused nowhere."""
    from convexcnn.data import read_images

    Image.new("L", (6000, 6000)).save(tmp_path / "large.jpg")
    found = read_images([tmp_path / "large.jpg"], image_size=8)
    assert found.images.shape == (1, 1, 8, 8)
