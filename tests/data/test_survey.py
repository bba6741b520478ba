"""How large a data set is, without reading it, as reading it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import load_dataset
from convexcnn.data.survey import DataSurvey, survey_dataset
from convexcnn.errors import DataError, SettingError


def pictures(folder: Path, count: int, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            drawn = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(drawn).convert(mode).save(folder / name / f"{number}.png")


def table(folder: Path) -> Path:
    pictures(folder / "files", 5)
    rows = [f"files/{name}/{number}.png,{name}" for name in ("a", "b") for number in range(5)]
    path = folder / "labels.csv"
    path.write_text("\n".join(["path,label", *rows]))
    return path


def splits(folder: Path) -> Path:
    pictures(folder / "train", 6)
    pictures(folder / "val", 2)
    return folder


def grey(folder: Path) -> Path:
    pictures(folder, 5, mode="L")
    return folder


def archive(folder: Path) -> Path:
    path = folder / "some.npz"
    images = np.zeros((20, 2, 5, 4), np.float32)
    np.savez(path, images=images, labels=np.arange(20) % 4)
    return path


def arrays(folder: Path) -> Path:
    np.save(folder / "images.npy", np.zeros((20, 5, 4), np.uint8))
    np.save(folder / "labels.npy", np.arange(20) % 4)
    return folder


def test_an_array_is_read_where_it_lies(tmp_path: Path) -> None:
    assert not survey_dataset(arrays(tmp_path)).in_memory(memory_gb=1e3)


def test_files_above_a_fifth_of_the_memory_are_decoded_into_a_file(tmp_path: Path) -> None:
    found = replace(survey_dataset(splits(tmp_path)), n_train=10**6)
    assert found.in_memory(memory_gb=5.01e-9 * found.n_bytes)
    assert not found.in_memory(memory_gb=4.99e-9 * found.n_bytes)


@pytest.mark.parametrize("make", [table, splits, grey, archive])
@pytest.mark.parametrize("options", [{}, {"limit": 6}, {"image_size": 4}])
def test_a_survey_agrees_with_reading(make, options, tmp_path: Path) -> None:
    path = make(tmp_path)
    found, read = survey_dataset(path, **options), load_dataset(path, **options)
    assert found.n_train == len(read.train)
    assert found.n_test == len(read.test)
    assert found.image_shape == read.image_shape
    assert found.n_classes == len(read.classes)
    assert found.n_bytes == read.train.images.nbytes + read.test.images.nbytes
    assert found.n_files == (0 if make is archive else len(read.train) + len(read.test))


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_a_name_is_as_large_as_it_says(name: str) -> None:
    found, read = survey_dataset(name), load_dataset(name)
    assert (found.n_train, found.n_test) == (len(read.train), len(read.test))
    assert found.image_shape == read.image_shape


def test_a_name_needs_no_files() -> None:
    assert survey_dataset("cifar100", limit=1000).describe() == {
        "name": "cifar100",
        "n_train": 1000,
        "n_test": 10_000,
        "image_shape": [3, 32, 32],
        "n_classes": 100,
        "bytes": 11_000 * 3072,
        "files": 0,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("cifar11", "did you mean cifar10"), ("nothing/there", "no data set, folder or file")],
)
def test_data_that_is_not_there(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        survey_dataset(name)


def test_a_limit_below_the_classes() -> None:
    with pytest.raises(SettingError, match="limit is 9"):
        survey_dataset("cifar10", limit=9)


def test_images_of_mixed_size_need_one(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    Image.new("RGB", (30, 30)).save(tmp_path / "a" / "large.png")
    with pytest.raises(DataError, match="mixed size"):
        survey_dataset(tmp_path)
    assert survey_dataset(tmp_path, image_size=8).image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((10, 0, (3, 0, 4), 2), "shape is 3,0,4"),
        ((10, 0, (3, 4, 4), 1), "classes is 1"),
        ((3, 0, (3, 4, 4), 5), "3 training images and 5 classes"),
    ],
)
def test_numbers_that_cannot_be(sizes, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        DataSurvey("numbers", *sizes)
