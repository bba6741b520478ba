"""Names and paths to data sets, and what is said when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convexcnn.data import available_datasets, dataset_registry, load_dataset
from convexcnn.errors import DataError, SettingError
from official_files import write_idx_set


@pytest.mark.parametrize(
    "name", ["mnist", "MNIST", "Fashion-MNIST", "fashion_mnist", "FashionMNIST"]
)
def test_names_are_recognised_in_every_spelling(tmp_path, name):
    write_idx_set(tmp_path)
    assert load_dataset(name, root=tmp_path).name in ("mnist", "fashion-mnist")


@pytest.mark.parametrize(
    ("name", "guess"),
    [("cifr10", "cifar10"), ("photo", "photos"), ("fashion", "fashion-mnist"), ("DIGIT", "digits")],
)
def test_a_misspelt_name_brings_the_nearest_one(name, guess):
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert f"did you mean {guess}?" in message
    assert "a folder of class folders" in message
    for known in dataset_registry:
        assert known in message


def test_a_path_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(DataError, match=r"no data set, folder or file .*nothing"):
        load_dataset(tmp_path / "nothing")


def test_a_file_of_another_kind_is_said_so(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"images\.zip is a file of another kind\. DATA is a name"):
        load_dataset(tmp_path / "images.zip")


def test_a_path_object_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert load_dataset("digits").source.startswith("digits in scikit-learn")
    for folder in (Path("digits"), "./digits"):
        with pytest.raises(DataError, match="digits: has no images"):
            load_dataset(folder)


def test_the_root_is_the_argument_else_the_environment_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CONVEXCNN_DATA", raising=False)
    cache = tmp_path / "home" / ".cache" / "convexcnn"
    with pytest.raises(DataError, match=f"MNIST is not in {cache} "):
        load_dataset("mnist")
    write_idx_set(cache / "MNIST" / "raw")
    assert load_dataset("mnist").source == str(cache / "MNIST" / "raw")
    write_idx_set(tmp_path / "env" / "MNIST" / "raw")
    monkeypatch.setenv("CONVEXCNN_DATA", str(tmp_path / "env"))
    assert load_dataset("mnist").source == str(tmp_path / "env" / "MNIST" / "raw")
    write_idx_set(tmp_path / "root" / "mnist")
    assert load_dataset("mnist", root=tmp_path / "root").source == str(tmp_path / "root" / "mnist")
    assert load_dataset("mnist", root="~/.cache/convexcnn").source == str(cache / "MNIST" / "raw")
    monkeypatch.setenv("CONVEXCNN_DATA", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=f"MNIST is not in {tmp_path / 'empty'} "):
        load_dataset("mnist")


def test_limit_and_image_size_work_for_named_sets(tmp_path):
    write_idx_set(tmp_path)
    dataset = load_dataset("mnist", root=tmp_path, limit=10, image_size=14)
    assert dataset.image_shape == (1, 14, 14)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.ones(10))
    assert len(dataset.test) == 20
    with pytest.raises(SettingError, match="limit is 3"):
        load_dataset("mnist", root=tmp_path, limit=3)
    with pytest.raises(SettingError, match="image size is 0"):
        load_dataset("mnist", root=tmp_path, image_size=0)


def test_every_named_set_describes_itself_in_json():
    described = json.loads(json.dumps([info.to_dict() for info in available_datasets()]))
    assert [entry["name"] for entry in described] == list(dataset_registry)
    for entry in described:
        assert set(entry) == {
            *("name", "summary", "image_shape", "n_classes"),
            *("n_train", "n_test", "origin", "offline"),
        }
        assert len(entry["image_shape"]) == 3


def test_find_says_where_official_files_are(tmp_path):
    info = dataset_registry["mnist"]
    assert info.find(tmp_path) is None
    write_idx_set(tmp_path / "MNIST" / "raw")
    assert info.find(tmp_path) == tmp_path / "MNIST" / "raw"


def test_importing_the_package_imports_nothing_heavy():
    code = "import convexcnn.data, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "sklearn", "skimage", "mlxtend", "scipy", "pandas", "pooch", "PIL"}
    assert heavy.isdisjoint(loaded.stdout.split())
