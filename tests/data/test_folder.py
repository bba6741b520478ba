"""Folders of class folders, with and without splits, in ImageNet's layouts, and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import load_dataset
from convexcnn.errors import DataError


def fill(folder: Path, n: int, *, first: int = 0, size: tuple[int, int] = (4, 4)) -> None:
    """Put n grey PNG files into a folder; all pixels of each equal its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        Image.new("L", size, i).save(folder / f"{i:03}.png")


def numbers(images: np.ndarray) -> list[int]:
    return sorted(images[:, 0, 0, 0].tolist())


def test_without_a_split_a_fifth_is_kept_for_testing_and_said_so(tmp_path):
    fill(tmp_path / "cat", 10)
    fill(tmp_path / "dog", 10, first=100)
    dataset = load_dataset(tmp_path, seed=3)
    assert dataset.classes == ("cat", "dog")
    assert dataset.name == tmp_path.name
    assert "split 80/20 by seed 3" in dataset.source
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    together = numbers(np.concatenate([dataset.train.images, dataset.test.images]))
    assert together == [*range(10), *range(100, 110)]
    np.testing.assert_array_equal(dataset.train.labels, dataset.train.images[:, 0, 0, 0] >= 100)
    assert dataset.fingerprint() == load_dataset(str(tmp_path), seed=3).fingerprint()
    assert dataset.fingerprint() != load_dataset(tmp_path, seed=4).fingerprint()


@pytest.mark.parametrize("name", ["test", "val", "validation", "valid", "Test"])
def test_a_test_folder_beside_train_is_used(tmp_path, name):
    for split, first in (("train", 0), (name, 50)):
        fill(tmp_path / split / "cat", 3, first=first)
        fill(tmp_path / split / "dog", 3, first=first + 100)
    dataset = load_dataset(tmp_path)
    assert numbers(dataset.train.images) == [0, 1, 2, 100, 101, 102]
    assert numbers(dataset.test.images) == [50, 51, 52, 150, 151, 152]
    assert f"train and {name.lower()}" in dataset.source


def test_the_test_folder_is_preferred_to_the_validation_folder(tmp_path):
    for first, split in enumerate(["train", "val", "test"]):
        fill(tmp_path / split / "cat", 1, first=first)
        fill(tmp_path / split / "dog", 1, first=first + 100)
    dataset = load_dataset(tmp_path)
    assert numbers(dataset.test.images) == [2, 102]


def test_a_test_folder_without_classes_is_not_tested_on(tmp_path):
    fill(tmp_path / "train" / "cat", 5)
    fill(tmp_path / "train" / "dog", 5, first=100)
    fill(tmp_path / "test", 5)
    assert "split 80/20" in load_dataset(tmp_path).source


def test_classes_called_train_and_test_are_classes(tmp_path):
    fill(tmp_path / "train", 5)
    fill(tmp_path / "boat", 5)
    assert load_dataset(tmp_path).classes == ("boat", "train")


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    for i in (0, 2, 10):
        fill(tmp_path / str(i), 2)
    assert load_dataset(tmp_path).classes == ("0", "2", "10")


def test_imagenet_names_are_read_and_double_ones_written_out(tmp_path):
    words = {
        "n01": "crane",
        "n02": "crane",
        "n03": "maillot, tank suit",
        "n04": "maillot",
        "n05": "goldfish, Carassius auratus",
    }
    for label in (*words, "n06"):
        fill(tmp_path / "train" / label, 1)
        fill(tmp_path / "val" / label, 1)
    (tmp_path / "words.txt").write_text(
        "n99\tunused\n" + "".join(f"{label}\t{name}\n" for label, name in words.items())
    )
    assert load_dataset(tmp_path).classes == (
        *("crane (n01)", "crane (n02)", "maillot, tank suit"),
        *("maillot", "goldfish", "n06"),
    )


def test_tiny_imagenet_s_own_layout(tmp_path):
    for first, label in ((0, "n01"), (100, "n02")):
        fill(tmp_path / "train" / label / "images", 2, first=first)
        (tmp_path / "train" / label / f"{label}_boxes.txt").write_text("0 0 63 63\n")
    fill(tmp_path / "val" / "images", 2, first=50)
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "051.png\tn01\t0\t0\t9\t9\n050.png\tn02\t0\t0\t9\t9\n"
    )
    fill(tmp_path / "test" / "images", 2)
    dataset = load_dataset(tmp_path)
    assert numbers(dataset.train.images) == [0, 1, 100, 101]
    by_number = dict(zip(dataset.test.images[:, 0, 0, 0], dataset.test.labels, strict=True))
    assert by_number == {51: 0, 50: 1}


def test_annotations_without_a_tab_are_refused(tmp_path):
    fill(tmp_path / "train" / "n01", 2)
    fill(tmp_path / "train" / "n02", 2)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text("050.png n02\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: a line has no tab"):
        load_dataset(tmp_path)


def test_files_that_are_no_images_and_hidden_ones_are_not_read(tmp_path):
    fill(tmp_path / "cat", 3)
    fill(tmp_path / "dog", 3)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat" / "._000.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.txt").write_text("hello")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 6


def test_limit_opens_only_the_files_it_keeps(tmp_path):
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 10)
        fill(tmp_path / "test" / label, 2)
    chosen = load_dataset(tmp_path, limit=4, seed=1)
    assert chosen.fingerprint() == load_dataset(tmp_path, seed=1).limit(4, seed=1).fingerprint()
    kept = set(numbers(chosen.train.images))
    for label in ("cat", "dog"):
        for i in set(range(10)) - kept:
            (tmp_path / "train" / label / f"{i:03}.png").write_bytes(b"broken")
    assert load_dataset(tmp_path, limit=4, seed=1).fingerprint() == chosen.fingerprint()


def test_a_corrupt_file_is_named_and_skipped_only_when_asked(tmp_path):
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 4)
        fill(tmp_path / "test" / label, 2)
    bad = [tmp_path / "train" / "dog" / "001.png", tmp_path / "test" / "cat" / "000.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"001\.png: cannot be read as an image.*--skip-bad"):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, skip_bad=True)
    assert dataset.skipped == tuple(map(str, bad))
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0, 1, 1])


def test_a_test_class_without_training_images_is_refused(tmp_path):
    for label in ("cat", "dog"):
        fill(tmp_path / "train" / label, 2)
    fill(tmp_path / "test" / "bird", 2)
    with pytest.raises(DataError, match="is of class bird, which has no training images"):
        load_dataset(tmp_path)


def test_mixed_sizes_are_resized_when_asked(tmp_path):
    fill(tmp_path / "cat", 3, size=(8, 6))
    fill(tmp_path / "dog", 3, size=(5, 9))
    with pytest.raises(DataError, match=r"mixed size.*--image-size 5"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, image_size=5).image_shape == (1, 5, 5)


def empty_folder(folder):
    folder.mkdir()


def images_without_classes(folder):
    fill(folder, 3)


def one_class(folder):
    fill(folder / "cat", 5)


def empty_class(folder):
    fill(folder / "cat", 3)
    (folder / "dog").mkdir()


def folders_in_folders(folder):
    fill(folder / "animals" / "cat", 3)
    fill(folder / "animals" / "dog", 3)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (empty_folder, "has no images; put the images of every class into a folder of its own"),
        (images_without_classes, "has images but no class folders"),
        (one_class, r"images of one class only \(cat\)"),
        (empty_class, r"dog: this class folder has no images"),
        (
            folders_in_folders,
            r"animals: this class folder has folders \(cat, \.\.\.\) but no images",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_explained(tmp_path, make, complaint):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=complaint):
        load_dataset(tmp_path / "data")


def test_imagenet_photographs(real_data):
    dataset = load_dataset(real_data("tinyimagenet20"), limit=200)
    assert dataset.image_shape == (3, 64, 64)
    assert dataset.classes[0] == "goldfish"
    assert dataset.classes[2] == "black stork"
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.full(20, 10))
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), np.full(20, 50))
