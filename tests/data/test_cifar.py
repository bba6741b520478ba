"""CIFAR-10 and CIFAR-100 in both official versions, whole and damaged."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn.data import load_dataset
from convexcnn.errors import DataError
from official_files import (
    CIFAR10_NAMES,
    cifar_records,
    python2_pickle,
    write_cifar10_binary,
    write_cifar10_python,
    write_cifar100_binary,
    write_cifar100_python,
)

WRITERS = {
    "cifar-10-batches-bin": ("cifar10", write_cifar10_binary),
    "cifar-10-batches-py": ("cifar10", write_cifar10_python),
    "cifar-100-binary": ("cifar100", write_cifar100_binary),
    "cifar-100-python": ("cifar100", write_cifar100_python),
}


@pytest.fixture(params=WRITERS)
def version(request, tmp_path):
    """Name of the set, the root, and the folder in it that holds one version."""
    name, write = WRITERS[request.param]
    write(tmp_path / request.param)
    return name, tmp_path, tmp_path / request.param


def test_pixels_labels_and_names_are_those_in_the_files(version):
    name, root, _ = version
    dataset = load_dataset(name, root=root)
    if name == "cifar10":
        parts = [cifar_records(20, 10, seed) for seed in range(5)]
        pixels, labels = map(np.concatenate, zip(*parts, strict=True))
        test_pixels, test_labels = cifar_records(20, 10, seed=5)
        classes = CIFAR10_NAMES
    else:
        pixels, labels = cifar_records(200, 100, seed=0)
        test_pixels, test_labels = cifar_records(200, 100, seed=1)
        classes = [f"class {i}" for i in range(100)]
    np.testing.assert_array_equal(dataset.train.images, pixels.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(dataset.train.labels, labels)
    np.testing.assert_array_equal(dataset.test.images, test_pixels.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    assert dataset.classes == tuple(classes)
    assert dataset.name == name


def test_the_folder_itself_may_be_the_root_or_the_data(version):
    name, root, folder = version
    expected = load_dataset(name, root=root).fingerprint()
    assert load_dataset(name, root=folder).fingerprint() == expected
    assert load_dataset(folder).fingerprint() == expected
    assert load_dataset(folder).name == name


def test_a_missing_file_is_named(version):
    name, root, folder = version
    gone = sorted(folder.iterdir())[-1]
    gone.unlink()
    with pytest.raises(DataError, match=rf"has no {gone.name}; complete it, or say --download"):
        load_dataset(name, root=root)
    with pytest.raises(DataError, match=rf"has no {gone.name}"):
        load_dataset(folder)


def test_a_truncated_file_is_named(version):
    name, root, folder = version
    for path in folder.iterdir():
        if path.stat().st_size > 10_000:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2 - 7])
    with pytest.raises(DataError, match=r"truncated.*fetch the official archive again"):
        load_dataset(name, root=root)


def test_a_complete_version_is_preferred_to_an_incomplete_one(tmp_path):
    write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    write_cifar10_python(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    assert load_dataset("cifar10", root=tmp_path).source.endswith("cifar-10-batches-py")


def test_both_versions_hold_the_same_data(tmp_path):
    write_cifar10_binary(tmp_path / "a")
    write_cifar10_python(tmp_path / "b")
    assert load_dataset(tmp_path / "a").fingerprint() == load_dataset(tmp_path / "b").fingerprint()


def test_a_label_out_of_range_is_named_with_its_file(tmp_path):
    write_cifar10_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3 * 3073] = 23
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"data_batch_2\.bin: image 3 has label 23, out of range 0\.\.9"
    ):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": [0, 1, 2]}, "do not match"),
        ({"labels": "many"}, "has no data and labels"),
        ({"data": [1, 2]}, "has no data and labels"),
        ({"labels": ["a"] * 20}, "not all whole numbers"),
        ({"labels": [10**6] * 20}, "out of range"),
        ({"labels": [], "data": np.empty((0, 3072), np.uint8)}, "do not match"),
    ],
)
def test_a_python_batch_that_does_not_fit_together_is_refused(tmp_path, change, complaint):
    write_cifar10_python(tmp_path)
    pixels, labels = cifar_records(20, 10)
    batch = {"labels": labels.tolist(), "data": pixels} | change
    (tmp_path / "data_batch_4").write_bytes(python2_pickle(batch))
    with pytest.raises(DataError, match=f"data_batch_4.*{complaint}"):
        load_dataset("cifar10", root=tmp_path)


def test_files_that_may_not_be_read_are_a_data_error(version, monkeypatch):
    name, root, folder = version

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "read_bytes", refuse)
    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(DataError, match=f"{folder}: cannot be read .*Permission denied"):
        load_dataset(name, root=root)


def test_too_few_class_names_are_refused(tmp_path):
    write_cifar10_binary(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 1 class names instead of 10"):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.slow
def test_the_whole_of_cifar10(real_data):
    dataset = load_dataset("cifar10", root=real_data("cifar10").parent)
    assert dataset.train.images.shape == (50_000, 3, 32, 32)
    assert dataset.test.images.shape == (10_000, 3, 32, 32)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.full(10, 5000))
    assert dataset.classes == tuple(CIFAR10_NAMES)
