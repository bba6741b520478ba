"""The reader of CIFAR's pickles: right on official ones, harmless on all others."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convexcnn.data.cifar_pickle import read_cifar_pickle
from convexcnn.errors import DataError
from official_files import cifar_records, python2_pickle

PIXELS, LABELS = cifar_records(4, 10)
BATCH = {
    "batch_label": "training batch 1 of 5",
    "labels": LABELS.tolist(),
    "data": PIXELS,
    "filenames": ["a.png", "b.png", "c.png", "d.png"],
    "num_vis": 3072,
    "big": 100_000,
}


def read(folder: Path, content: bytes) -> dict:
    path = folder / "data_batch_1"
    path.write_bytes(content)
    return read_cifar_pickle(path)


def test_python_2_pickle_is_read_as_pickle_itself_reads_it(tmp_path):
    content = python2_pickle(BATCH)
    ours = read(tmp_path, content)
    reference = pickle.loads(content, encoding="bytes")
    assert list(ours) == [key.decode() for key in reference]
    for key, value in reference.items():
        np.testing.assert_array_equal(ours[key.decode()], value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_both_memory_orders_are_understood(tmp_path, order):
    found = read(tmp_path, python2_pickle({"data": np.asarray(PIXELS, order=order)}))
    np.testing.assert_array_equal(found["data"], PIXELS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_saved_again_by_python_3_are_understood(tmp_path, protocol):
    batch = {b"labels": LABELS.tolist(), b"data": PIXELS, b"none": None, b"flags": (True, False)}
    found = read(tmp_path, pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["labels"] == LABELS.tolist()
    assert found["none"] is None
    assert found["flags"] == (True, False)


class Malicious:
    """Runs a command wherever it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_in_a_pickle_is_ever_run(tmp_path, protocol):
    victim = tmp_path / "ran"
    content = pickle.dumps({"data": Malicious(victim)}, protocol=protocol)
    with pytest.raises(DataError, match=r"data_batch_1: (asks for .*system|uses the pickle)"):
        read(tmp_path, content)
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists(), "the test's own pickle is harmless: it shows nothing"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "asks for builtins.eval"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "uses the pickle operation NEWOBJ"),
        (b"\x80\x02Pevil\n.", "uses the pickle operation PERSID"),
        (b"\x80\x02U\x01xK\x01b.", "changes the state of something that is no array"),
        (b"\x80\x02U\x01xK\x01\x85R.", "calls something that is not a name"),
        (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "calls numpy.ndarray in a way of its own"),
        (b"\x80\x02}K\x01K\x02s.", "has a dictionary key that is no string"),
        (b"\x80\x02]K\x01a.", "holds no dictionary"),
        (b"not a pickle", "not a CIFAR python file"),
        (b"", "not a CIFAR python file"),
    ],
)
def test_other_pickles_are_refused_in_words(tmp_path, content, complaint):
    with pytest.raises(DataError, match=complaint):
        read(tmp_path, content)


def test_arrays_of_another_type_are_refused(tmp_path):
    content = python2_pickle({"data": PIXELS}).replace(b"U\x02u1", b"U\x02f8")
    with pytest.raises(DataError, match="holds an array that is not uint8"):
        read(tmp_path, content)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_ends_in_a_data_error_or_a_dictionary(tmp_path, data):
    content = bytearray(python2_pickle(BATCH | {"data": PIXELS[:1, :5]}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        found = read(tmp_path, bytes(content[:cut] or content))
    except DataError:
        return
    assert isinstance(found, dict)
