"""Tables of labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import load_dataset
from convexcnn.errors import DataError


@pytest.fixture
def images(tmp_path):
    """A folder with images/0.png ... images/19.png, all pixels of each equal to its number."""
    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.new("L", (4, 4), i).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(folder, lines, name="labels.csv", encoding="utf-8"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_labels_of_thousands_of_digits_are_names(images):
    """Python makes no number of so many, and no class is called by one."""
    longest = "9" * 5000
    rows = [f"images/{i}.png,{(longest, '2', '10')[i % 3]}" for i in range(18)]
    assert load_dataset(write(images, ["path,label", *rows])).classes == ("10", "2", longest)


def test_a_table_without_split_is_divided(images):
    rows = [f"images/{i}.png,{'even' if i % 2 == 0 else 'odd'}" for i in range(20)]
    dataset = load_dataset(write(images, ["path,label", *rows]))
    assert dataset.name == "labels"
    assert dataset.classes == ("even", "odd")
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    np.testing.assert_array_equal(dataset.train.labels, dataset.train.images[:, 0, 0, 0] % 2)


@pytest.mark.parametrize("name", ["test", "val", "validation", "Valid"])
def test_the_split_column_is_followed(images, name):
    rows = [f"images/{i}.png,{i % 3},{name if i >= 15 else ''}" for i in range(20)]
    dataset = load_dataset(write(images, ["path,label,split", *rows]))
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], np.arange(15))
    np.testing.assert_array_equal(dataset.test.images[:, 0, 0, 0], np.arange(15, 20))
    np.testing.assert_array_equal(dataset.test.labels, np.arange(15, 20) % 3)


def test_columns_may_be_in_any_order_quoted_spaced_and_with_a_byte_order_mark(images):
    lines = ["note, Label ,PATH", '"a, b", cat ,images/0.png', "", ",dog,images/1.png"]
    lines += [",cat,images/2.png", f",dog,{images / 'images' / '3.png'}"]
    dataset = load_dataset(write(images, lines, encoding="utf-8-sig"))
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == 4


def test_tabs_separate_a_tsv(images):
    lines = ["path\tlabel", *(f"images/{i}.png\ta, {i % 2}" for i in range(4))]
    assert load_dataset(write(images, lines, name="labels.tsv")).classes == ("a, 0", "a, 1")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "has no column path and no column label"),
        (["file,label", "images/0.png,cat"], "has no column path;"),
        (["path,class", "images/0.png,cat"], "has no column label;"),
        (["path;label", "images/0.png;cat"], "something else than commas: save it with commas"),
        (["path\tlabel", "images/0.png\tcat"], "something else than commas: save it with commas"),
        (["p\0a\0t\0h,\0l", "x"], "it looks like UTF-16: save it as CSV in UTF-8"),
        (
            ["path,label", "images/0.png,cat", "images/1.png,dog", "./images/0.png,dog"],
            r"line 4: \./images/0\.png is dog here, but cat in line 2; keep one",
        ),
        (
            ["path,label,split", "images/0.png,cat,", "images/0.png,cat,test"],
            r"line 3: images/0\.png is test here, but train in line 2; keep one",
        ),
        (["path,label"], "lists no training images"),
        (["path,label", "images/0.png,cat", "images/1.png,"], "line 3: no label"),
        (["path,label", "images/0.png,cat", "images/1.png"], "line 3: no label"),
        (["path,label", ",cat"], "line 2: no path"),
        (["path,label,split", "images/0.png,cat,tset"], "line 2: unknown split tset; write one of"),
        (["path,label,split", "images/0.png,cat,test"], "lists no training images"),
        (["path,label", "images/0.png,cat", "images/1.png,cat"], "one class only"),
        (
            ["path,label", "images/0.png,cat", "images/99.png,dog"],
            r"99\.png: there is no such file",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(images, lines, complaint):
    with pytest.raises(DataError, match=complaint):
        load_dataset(write(images, lines))


def test_commas_in_a_tsv_are_explained(images):
    table = write(images, ["path,label", "images/0.png,cat"], name="labels.tsv")
    with pytest.raises(DataError, match=r"than tabs: save it with tabs, or as \.csv"):
        load_dataset(table)


def test_utf_16_is_explained(images):
    table = write(images, ["path,label", "images/0.png,cat"], encoding="utf-16")
    with pytest.raises(DataError, match=r"in UTF-8 .*; save it as CSV in UTF-8"):
        load_dataset(table)


def test_a_row_that_is_repeated_counts_once(images):
    rows = [f"images/{i}.png,{i % 2}" for i in range(20)]
    again = write(images, ["path,label", *rows, *rows[:9], f"{images}/images/9.png,1"], "again.csv")
    once = load_dataset(write(images, ["path,label", *rows]))
    assert load_dataset(again).fingerprint() == once.fingerprint()


def test_a_file_that_is_no_text_is_refused(images):
    path = images / "labels.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,cat\n")
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read as a table in UTF-8"):
        load_dataset(path)


def test_a_corrupt_image_is_skipped_only_when_asked(images):
    (images / "images" / "3.png").write_bytes(b"no image")
    table = write(images, ["path,label", *(f"images/{i}.png,{i % 2}" for i in range(20))])
    with pytest.raises(DataError, match=r"3\.png: cannot be read as an image"):
        load_dataset(table)
    dataset = load_dataset(table, skip_bad=True)
    assert dataset.skipped == (str(images / "images" / "3.png"),)
    assert len(dataset.train) + len(dataset.test) == 19
