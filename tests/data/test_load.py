"""Names and paths to data sets, and what is said when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convexcnn.data import available_datasets, dataset_registry, load_dataset
from convexcnn.data.survey import survey_dataset
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
    with pytest.raises(SettingError, match="image_size is 0; give a whole number, 1 or more"):
        load_dataset("mnist", root=tmp_path, image_size=0)


ARGUMENTS = {
    "image_size": [8.5, "8", True, 0, (8, 0), 10**400],
    "limit": [10.5, "5", True, 0, float("nan")],
    "seed": [-1, 0.5, "0", None, True],
    "name_or_path": [None, b"digits", 5, ["digits"]],
}


@pytest.mark.parametrize("read", [load_dataset, survey_dataset])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in ARGUMENTS for value in ARGUMENTS[name]]
)
def test_arguments_of_another_type_are_refused(read, name, value):
    with pytest.raises(SettingError, match=f"{name} is .*; (give a|no image)"):
        read(**{"name_or_path": "digits", name: value})


@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), "8", True, 10**400])
def test_memory_that_is_no_positive_number_is_refused(value):
    with pytest.raises(SettingError, match=r"memory_gb is .*; give a positive number"):
        load_dataset("digits", memory_gb=value)


@pytest.mark.parametrize("read", [load_dataset, survey_dataset])
@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("~nosuchuser/x", "~nosuchuser/x: there is no such user"),
        ("a" * 5000, "cannot be looked for"),
        (Path("a" * 5000), "cannot be looked for"),
        ("a\0b", "no data set, folder or file"),
    ],
    ids=["user", "long name", "long path", "null"],
)
def test_a_path_where_nothing_can_be_is_refused(read, path, complaint):
    with pytest.raises(DataError, match=complaint):
        read(path)


@pytest.mark.parametrize("root", ["~nosuchuser/x", "a" * 5000])
def test_a_root_where_nothing_can_be_is_refused(root, monkeypatch):
    with pytest.raises(DataError, match=r"no such user|cannot be looked for"):
        load_dataset("mnist", root=root)
    monkeypatch.setenv("CONVEXCNN_DATA", root)
    with pytest.raises(DataError, match=r"no such user|cannot be looked for"):
        load_dataset("mnist")
    with pytest.raises(SettingError, match="root is b'x'; give a path"):
        load_dataset("mnist", root=b"x")


@pytest.mark.parametrize(("n", "seed"), [(10.5, 0), ("5", 0), (True, 0), (10, -1), (10, 0.5)])
def test_a_data_set_is_limited_by_whole_numbers(n, seed):
    with pytest.raises(SettingError, match=r"(limit|seed) is .*; give a whole number"):
        load_dataset("digits").limit(n, seed)


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
