"""NumPy arrays, .npz files and torch data sets."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from convexcnn.data import (
    ImageDataset,
    dataset_from_arrays,
    dataset_from_torch,
    limits,
    load_dataset,
)
from convexcnn.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
FIRST = IMAGES.transpose(0, 3, 1, 2)


def test_without_test_images_a_fifth_is_split_off():
    dataset = dataset_from_arrays(IMAGES, LABELS, seed=5)
    assert (len(dataset.train), len(dataset.test)) == (24, 6)
    assert dataset.image_shape == (3, 6, 5)
    assert dataset.source == "NumPy arrays (split 80/20 by seed 5)"


def test_given_test_images_are_used():
    dataset = dataset_from_arrays(IMAGES, LABELS, IMAGES[:7], LABELS[:7])
    np.testing.assert_array_equal(dataset.train.images, FIRST)
    np.testing.assert_array_equal(dataset.test.images, FIRST[:7])
    assert dataset.source == "NumPy arrays"


@pytest.mark.parametrize(
    ("labels", "classes", "names", "encoded"),
    [
        (LABELS, None, ("0", "1", "2"), LABELS),
        (LABELS + 5, None, ("5", "6", "7"), LABELS),
        (LABELS - 1.0, None, ("-1", "0", "1"), LABELS),
        (LABELS[:, None], None, ("0", "1", "2"), LABELS),
        (LABELS.tolist(), None, ("0", "1", "2"), LABELS),
        (torch.from_numpy(LABELS), None, ("0", "1", "2"), LABELS),
        (LABELS > 0, None, ("0", "1"), LABELS > 0),
        (np.array(["b", "c", "a"])[LABELS], None, ("a", "b", "c"), np.array([1, 2, 0])[LABELS]),
        (LABELS, ("x", "y", "z", "unused"), ("x", "y", "z", "unused"), LABELS),
        (np.array(["z", "x", "y"])[LABELS], ("z", "x", "y"), ("z", "x", "y"), LABELS),
    ],
)
def test_labels_of_every_kind_become_class_indices(labels, classes, names, encoded):
    dataset = dataset_from_arrays(IMAGES, labels, IMAGES, labels, classes=classes)
    assert dataset.classes == names
    np.testing.assert_array_equal(dataset.train.labels, encoded)
    np.testing.assert_array_equal(dataset.test.labels, encoded)
    assert dataset.train.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": LABELS[:4]}, "30 images but 4 labels"),
        ({"labels": np.eye(3)[LABELS]}, r"labels have shape \(30, 3\).*argmax"),
        ({"labels": LABELS + 0.5}, "NaN or fractions"),
        ({"labels": np.where(LABELS, np.nan, 1)}, "NaN or fractions"),
        ({"labels": np.array([None] * 30)}, "labels hold object"),
        ({"labels": np.zeros(30, int)}, r"one class only \(0\)"),
        ({"labels": np.zeros(0), "images": IMAGES[:0]}, "no training images"),
        ({"classes": ("a", "b")}, "image 2 has label 2, out of range: the 2 classes are 0, 1"),
        ({"classes": ("a", "b", "a")}, "class names are not all different"),
        ({"labels": LABELS - 1, "classes": ("a", "b", "c")}, "image 0 has label -1, out of range"),
        ({"images": IMAGES.reshape(30, -1)}, "say image_shape="),
        ({"images": np.where(IMAGES > 250, np.nan, IMAGES)}, "NaN or infinite"),
        ({"test_images": IMAGES}, "only test_images is given"),
        ({"test_labels": LABELS}, "only test_labels is given"),
        (
            {"test_images": IMAGES, "test_labels": LABELS + 1},
            "test_labels: image 2 has label 3, out of range",
        ),
        (
            {"test_images": IMAGES[:, :4], "test_labels": LABELS},
            r"training images of shape \(3, 6, 5\) but test images of shape \(3, 4, 5\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        dataset_from_arrays(**({"images": IMAGES, "labels": LABELS, "source": "here"} | change))
    assert "here" in str(caught.value)


def test_bytes_and_floats_together_become_floats():
    dataset = dataset_from_arrays(IMAGES, LABELS, IMAGES.astype(float) + 0.5, LABELS)
    assert dataset.train.images.dtype == dataset.test.images.dtype == np.float32


@pytest.fixture
def npz(tmp_path):
    def write(save=np.savez, **fields):
        save(tmp_path / "pictures.npz", **fields)
        return tmp_path / "pictures.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_comes_back(npz, save):
    path = npz(save, images=IMAGES, labels=LABELS, test_images=IMAGES[:5], test_labels=LABELS[:5])
    dataset = load_dataset(path)
    assert dataset.name == "pictures"
    assert dataset.source == str(path)
    np.testing.assert_array_equal(dataset.train.images, FIRST)
    np.testing.assert_array_equal(dataset.test.labels, LABELS[:5])


def test_an_npz_may_name_its_classes_and_lack_a_test_split(npz):
    path = npz(images=IMAGES, labels=LABELS, classes=np.array(["x", "y", "z"]))
    dataset = load_dataset(path, seed=2)
    assert dataset.classes == ("x", "y", "z")
    assert "split 80/20 by seed 2" in dataset.source


def test_an_npz_without_a_key_is_explained(npz):
    with pytest.raises(DataError, match=r"has pixels, labels but no images; write it with numpy"):
        load_dataset(npz(pixels=IMAGES, labels=LABELS))
    with pytest.raises(DataError, match="has x but no images and no labels"):
        load_dataset(npz(x=IMAGES))


def test_an_npz_with_pickled_objects_is_refused(npz):
    path = npz(images=IMAGES, labels=np.array(list(LABELS), dtype=object))
    with pytest.raises(DataError, match=r"not a readable \.npz of plain arrays"):
        load_dataset(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_a_truncated_npz_is_refused(npz, keep):
    path = npz(images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(DataError, match=r"pictures\.npz: not a readable \.npz"):
        load_dataset(path)


def test_a_changed_byte_in_an_npz_is_noticed(npz):
    path = npz(images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        load_dataset(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_of_an_npz_ends_in_a_data_error_or_a_data_set(npz, data):
    path = npz(np.savez_compressed, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        dataset = load_dataset(path)
    except DataError:
        return
    assert isinstance(dataset, ImageDataset)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 10**6)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(5_000_000))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"bomb\.npz holds .* more than this machine's memory"):
        load_dataset(path)


def test_an_array_header_that_promises_too_much_is_refused(tmp_path):
    path = tmp_path / "boast.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", member)
    with pytest.raises(DataError, match=r"boast\.npz: not a readable \.npz"):
        load_dataset(path)


class Pictures(Dataset):
    """Pillow images with labels, and names of the classes, as torchvision's data sets have."""

    classes = ("x", "y", "z")

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        return Image.fromarray(IMAGES[i]), int(LABELS[i])


class Stream(IterableDataset):
    """Tensors one after the other."""

    def __iter__(self):
        for image, label in zip(FIRST, LABELS, strict=True):
            yield torch.from_numpy(image), label


def test_torch_data_sets_of_every_kind_hold_the_same():
    tensors = TensorDataset(torch.from_numpy(FIRST), torch.from_numpy(LABELS))
    for source in (tensors, Pictures(), Stream()):
        dataset = dataset_from_torch(source, source)
        np.testing.assert_array_equal(dataset.train.images, FIRST)
        np.testing.assert_array_equal(dataset.test.labels, LABELS)
    assert dataset_from_torch(Pictures()).classes == ("x", "y", "z")
    assert dataset_from_torch(Pictures(), classes=("a", "b", "c")).classes == ("a", "b", "c")
    assert "split 80/20" in dataset_from_torch(tensors).source


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([], "is empty"),
        ([torch.zeros(1, 4, 4)], "item 0 is no .image, label. pair"),
        ([(torch.zeros(4), 0)], r"image 0 has shape \(4,\)"),
        ([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 1)], "image 1 has shape .* transform"),
    ],
)
def test_torch_data_sets_that_are_no_images_are_refused(items, complaint):
    with pytest.raises(DataError, match=complaint):
        dataset_from_torch(items)


@pytest.mark.parametrize("order", ["little", "big"])
def test_names_of_no_character_are_refused_in_either_byte_order(order, tmp_path) -> None:
    sign = "<" if order == "little" else ">"
    names = [np.frombuffer(code.to_bytes(4, order) * 2, f"{sign}U1") for code in (0x110000, 65)]
    path = tmp_path / "names.npz"
    np.savez(path, images=np.zeros((4, 5, 4)), labels=np.arange(4) % 2, classes=names[0])
    with pytest.raises(DataError, match="characters that do not exist"):
        load_dataset(path)
    np.savez(path, images=np.zeros((4, 5, 4)), labels=np.arange(4) % 2, classes=names[1])
    with pytest.raises(DataError, match="not all different"):
        load_dataset(path)
