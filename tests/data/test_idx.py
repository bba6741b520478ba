"""MNIST and Fashion-MNIST idx files, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convexcnn.data import limits, load_dataset
from convexcnn.data.idx import FASHION_MNIST, read_idx
from convexcnn.data.root import DataRoot
from convexcnn.errors import DataError
from official_files import idx_bytes, write_idx_set

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)


@pytest.fixture
def mnist_root(tmp_path):
    write_idx_set(tmp_path / "MNIST" / "raw")
    return tmp_path


def compress(folder):
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def test_images_and_labels_are_those_in_the_files(mnist_root):
    dataset = load_dataset("mnist", root=mnist_root)
    pixels = np.random.default_rng(30).integers(0, 256, (30, 28, 28))
    np.testing.assert_array_equal(dataset.train.images[:, 0], pixels)
    np.testing.assert_array_equal(dataset.train.labels, np.arange(30) % 10)
    assert dataset.test.images.shape == (20, 1, 28, 28)
    assert dataset.classes == tuple("0123456789")


def test_compressed_dotted_and_plain_files_hold_the_same(mnist_root):
    folder = mnist_root / "MNIST" / "raw"
    expected = load_dataset("mnist", root=mnist_root).fingerprint()
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert load_dataset("mnist", root=mnist_root).fingerprint() == expected
    compress(folder)
    assert load_dataset("mnist", root=mnist_root).fingerprint() == expected


def test_the_folder_itself_may_be_the_root_or_the_data(mnist_root):
    folder = mnist_root / "MNIST" / "raw"
    expected = load_dataset("mnist", root=mnist_root).fingerprint()
    assert load_dataset("mnist", root=folder).fingerprint() == expected
    assert load_dataset(folder).fingerprint() == expected


def test_a_folder_called_fashion_gets_the_names_of_clothes(tmp_path):
    write_idx_set(tmp_path / "FashionMNIST" / "raw")
    by_name = load_dataset("fashion-mnist", root=tmp_path)
    by_path = load_dataset(tmp_path / "FashionMNIST" / "raw")
    assert by_name.classes[-1] == by_path.classes[-1] == "Ankle boot"
    assert by_name.name == by_path.name == "fashion-mnist"


def test_debian_installs_fashion_mnist_where_it_is_found(tmp_path, monkeypatch):
    (debian,) = FASHION_MNIST.elsewhere
    assert str(debian) == "/usr/share/datasets/fashion-mnist"
    installed = tmp_path / "usr" / "fashion-mnist"
    write_idx_set(installed)
    compress(installed)
    fashion = replace(FASHION_MNIST, elsewhere=(installed,))
    monkeypatch.setenv("CONVEXCNN_DATA", str(tmp_path / "nothing"))
    assert fashion.load(DataRoot.resolve()).source == str(installed)
    with pytest.raises(DataError, match="Fashion-MNIST is not in"):
        fashion.load(DataRoot.resolve(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "truncated within its header"),
        (idx_bytes(IMAGES)[:9], "truncated within its header"),
        (idx_bytes(IMAGES)[:-1], "truncated, 59 of 60 bytes"),
        (idx_bytes(IMAGES) + b"x", "longer than the 60 bytes"),
        (idx_bytes(IMAGES[0, 0]), "wrong magic number 00000801 instead of 00000803"),
        (b"PK\x03\x04" + bytes(50), "wrong magic number 504b0304"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31), "more than this machine"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_named_and_the_damage_said(tmp_path, content, complaint, suffix):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_idx(path, 3)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-12], lambda c: c[:30], lambda c: b"no gzip at all"]
)
def test_damaged_compression_is_a_data_error(tmp_path, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(IMAGES))))
    with pytest.raises(DataError, match="truncated or not gzip"):
        read_idx(path, 3)


def test_a_decompression_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 10**6)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 10_000, 28, 28)
    path.write_bytes(gzip.compress(header + bytes(7_840_000)))
    with pytest.raises(DataError, match="more than this machine's memory"):
        read_idx(path, 3)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 15), value=st.integers(0, 255))
def test_any_change_of_the_header_is_noticed(tmp_path, position, value):
    content = bytearray(idx_bytes(IMAGES))
    changed = content[position] != value
    content[position] = value
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    if changed:
        with pytest.raises(DataError, match=path.name):
            read_idx(path, 3)
    else:
        np.testing.assert_array_equal(read_idx(path, 3), IMAGES)


def test_images_without_labels_are_refused(mnist_root):
    folder = mnist_root / "MNIST" / "raw"
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(10)))
    with pytest.raises(DataError, match="10 labels for the 30 images"):
        load_dataset("mnist", root=mnist_root)


def test_a_label_out_of_range_is_named(mnist_root):
    folder = mnist_root / "MNIST" / "raw"
    labels = np.arange(20) % 10
    labels[7] = 10
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match=r"t10k-labels.*image 7 has label 10, out of range 0\.\.9"):
        load_dataset("mnist", root=mnist_root)


def test_a_missing_file_is_named(mnist_root):
    (mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"has no t10k-images-idx3-ubyte .*complete it"):
        load_dataset("mnist", root=mnist_root)


def test_the_official_mnist(real_data):
    dataset = load_dataset("mnist", root=real_data("mnist"), limit=100)
    assert dataset.test.images.shape == (10_000, 1, 28, 28)
    np.testing.assert_array_equal(dataset.test.labels[:5], [7, 2, 1, 0, 4])
    np.testing.assert_array_equal(np.bincount(dataset.test.labels)[:2], [980, 1135])
