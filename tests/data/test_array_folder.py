"""Folders of arrays: images stay in their file, in every layout, and what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from convexcnn.data import load_dataset
from convexcnn.data.rows import held_bytes
from convexcnn.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 8), np.uint8)
LABELS = np.arange(20) % 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "arrays"
    path.mkdir()
    np.save(path / "images.npy", IMAGES)
    np.save(path / "labels.npy", LABELS)
    return path


def with_test_images(folder: Path) -> Path:
    np.save(folder / "test_images.npy", IMAGES[:5])
    np.save(folder / "test_labels.npy", LABELS[:5])
    return folder


def test_images_stay_in_their_file(folder: Path) -> None:
    found = load_dataset(with_test_images(folder))
    assert held_bytes(found.train.images) == 0
    np.testing.assert_array_equal(np.asarray(found.train.images), IMAGES)
    np.testing.assert_array_equal(found.train.images[[3, 1]], IMAGES[[3, 1]])
    assert found.train.labels.tolist() == LABELS.tolist()
    assert found.test is not None
    assert len(found.test) == 5
    assert (found.name, found.classes) == ("arrays", ("0", "1", "2", "3"))


LAYOUTS = {
    "channels first": (IMAGES, IMAGES),
    "channels last": (IMAGES.transpose(0, 2, 3, 1).copy(), IMAGES),
    "grey": (IMAGES[:, 0].copy(), IMAGES[:, :1]),
    "one channel last": (IMAGES[:, 0, :, :, None].copy(), IMAGES[:, :1]),
    "float32": (IMAGES.astype(np.float32) / 7, IMAGES.astype(np.float32) / 7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, folder: Path) -> None:
    saved, expected = LAYOUTS[layout]
    np.save(folder / "images.npy", saved)
    found = load_dataset(with_test_images(folder) if saved is IMAGES else folder)
    assert held_bytes(found.train.images) == 0
    rows = np.asarray(found.train.images)
    assert rows.dtype == expected.dtype
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in expected}


def test_it_is_the_data_set_of_the_same_arrays_in_memory(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", images=IMAGES, labels=LABELS)
    one, other = load_dataset(folder, seed=3), load_dataset(tmp_path / "arrays.npz", seed=3)
    assert one.fingerprint() == other.fingerprint()
    assert one.limit(8).fingerprint() == other.limit(8).fingerprint()
    resized = load_dataset(folder, seed=3, image_size=4)
    same = load_dataset(tmp_path / "arrays.npz", seed=3, image_size=4)
    assert resized.fingerprint() == same.fingerprint()


def test_classes_may_have_names(folder: Path) -> None:
    (folder / "classes.txt").write_text("a\nb\nc\nd\n", "utf-8")
    assert load_dataset(folder).classes == ("a", "b", "c", "d")


def spoil_number(folder: Path) -> None:
    images = IMAGES.astype(np.float32)
    images[13, 0, 0, 0] = np.nan
    np.save(folder / "images.npy", images)


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


BAD = {
    "no labels": (lambda f: (f / "labels.npy").unlink(), r"labels\.npy: there is no such file"),
    "half a test set": (
        lambda f: np.save(f / "test_images.npy", IMAGES),
        r"test_labels\.npy: there is no such file",
    ),
    "cut images": (lambda f: cut(f / "images.npy", 0.9), r"images\.npy: is cut off, \d+ bytes of"),
    "cut header": (lambda f: cut(f / "images.npy", 0.005), r"images\.npy: not a \.npy"),
    "no npy": (lambda f: (f / "images.npy").write_bytes(b"hello"), r"images\.npy: not a \.npy"),
    "cut labels": (lambda f: cut(f / "labels.npy", 0.9), r"labels\.npy: is cut off"),
    "objects": (
        lambda f: np.save(f / "images.npy", np.array([{}, 1], object), allow_pickle=True),
        r"images\.npy: is no plain array in C order",
    ),
    "Fortran order": (
        lambda f: np.save(f / "images.npy", np.asfortranarray(IMAGES)),
        r"images\.npy: is no plain array in C order",
    ),
    "float64": (
        lambda f: np.save(f / "images.npy", IMAGES.astype(np.float64)),
        r"images\.npy: holds float64 .*save images as uint8 or float32",
    ),
    "flat": (
        lambda f: np.save(f / "images.npy", IMAGES.reshape(20, -1)),
        r"images\.npy: holds uint8 of shape \(20, 144\)",
    ),
    "NaN": (spoil_number, r"images\.npy, from image 0: 1 of 20 images have NaN .*image 13"),
    "too few labels": (lambda f: np.save(f / "labels.npy", LABELS[:7]), "20 images but 7 labels"),
    "unlike types": (
        lambda f: (with_test_images(f), np.save(f / "test_images.npy", IMAGES[:5] / np.float32(2))),
        "images are uint8, test images float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_cannot_be_used_are_named(case: str, folder: Path) -> None:
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


@pytest.mark.parametrize("fate", ["rewritten", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_named(fate: str, folder: Path) -> None:
    found, path = load_dataset(folder), folder / "images.npy"
    if fate == "shorter":
        os.truncate(path, 300)
    else:
        with path.open("r+b") as file:
            file.seek(500)
            file.write(b"changed")
        os.utime(path, (1, 1))
    with pytest.raises(DataError, match=r"images\.npy (was written to|has become shorter)"):
        np.asarray(found.train.images)
