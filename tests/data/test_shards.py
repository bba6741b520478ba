"""Tar shards are read where they lie: the images of a folder, and what is wrong is named."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import load_dataset
from convexcnn.data import shards as module
from convexcnn.data.rows import held_bytes
from convexcnn.errors import DataError

GENERATOR = np.random.default_rng(0)
PICTURES = GENERATOR.integers(0, 256, (24, 6, 8, 3), np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pairs(numbers: Iterable[int], folder: str = "") -> list[tuple[str, bytes]]:
    """Images and their classes, number modulo 3."""
    found = []
    for number in numbers:
        key = f"{folder}{number:06d}"
        found += [(f"{key}.png", png(PICTURES[number])), (f"{key}.cls", b"%d" % (number % 3))]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training shards and one for testing."""
    write(tmp_path / "set" / "train-000000.tar", pairs(range(9)))
    write(tmp_path / "set" / "train-000001.tar", pairs(range(9, 18)))
    write(tmp_path / "set" / "test-000000.tar", pairs(range(18, 24)))
    return tmp_path / "set"


def test_shards_are_a_data_set(folder: Path) -> None:
    found = load_dataset(folder)
    np.testing.assert_array_equal(found.train.images, PICTURES[:18].transpose(0, 3, 1, 2))
    assert found.test is not None
    np.testing.assert_array_equal(found.test.images, PICTURES[18:].transpose(0, 3, 1, 2))
    assert found.train.labels.tolist() == [number % 3 for number in range(18)]
    assert (found.name, found.classes) == ("set", ("0", "1", "2"))


def test_they_are_the_images_of_a_folder(folder: Path, tmp_path: Path) -> None:
    for number, picture in enumerate(PICTURES):
        path = tmp_path / "pictures" / ("train" if number < 18 else "test") / str(number % 3)
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path / f"{number:06d}.png")
    one, other = load_dataset(folder), load_dataset(tmp_path / "pictures")
    key = np.lexsort(one.train.images.reshape(18, -1).T)
    key2 = np.lexsort(other.train.images.reshape(18, -1).T)
    np.testing.assert_array_equal(one.train.images[key], other.train.images[key2])
    np.testing.assert_array_equal(one.train.labels[key], other.train.labels[key2])


def test_images_beyond_their_share_of_the_memory_lie_in_a_file(folder: Path) -> None:
    in_memory = load_dataset(folder, memory_gb=1e-4)
    in_file = load_dataset(folder, memory_gb=1e-6)
    assert held_bytes(in_memory.train.images) > 0
    assert held_bytes(in_file.train.images) == 0
    np.testing.assert_array_equal(in_file.train.images[2:7], in_memory.train.images[2:7])
    assert in_file.fingerprint() == in_memory.fingerprint()
    part, whole = (dataset.limit(6, seed=1) for dataset in (in_file, in_memory))
    np.testing.assert_array_equal(np.asarray(part.train.images), whole.train.images)


@pytest.mark.parametrize(
    "given", ["set/train-{000000..000001}.tar", "set/train-000000.tar", "flat", "splits"]
)
def test_shards_are_found_by_pattern_name_or_folder(
    given: str, folder: Path, tmp_path: Path
) -> None:
    for name in ("a-0.tar", "a-1.tar"):
        write(tmp_path / "flat" / name, pairs(range(9) if name == "a-0.tar" else range(9, 18)))
    write(tmp_path / "splits" / "train" / "00.tar", pairs(range(12), "deep/er/"))
    write(tmp_path / "splits" / "val" / "00.tar", pairs(range(12, 18)))
    found = load_dataset(tmp_path / given)
    assert found.test is not None
    assert len(found.train) + len(found.test) == (9 if given.endswith("0.tar") else 18)
    if given == "splits":
        assert (len(found.train), len(found.test)) == (12, 6)


def test_classes_may_have_names(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\ndog\nemu\n", "utf-8")
    assert load_dataset(folder).classes == ("cat", "dog", "emu")


def test_classes_may_be_words_and_other_members_are_not_read(tmp_path: Path) -> None:
    members = [("__key__.json", b"{"), *pairs(range(6))]
    members = [(n, b"odd" if c == b"1" else b"even" if len(c) == 1 else c) for n, c in members]
    members[0] = ("notes.txt", b"nothing")
    found = load_dataset(write(tmp_path / "words.tar", members))
    assert found.classes == ("even", "odd")


def damage_an_image(folder: Path) -> None:
    members = pairs(range(9, 18))
    members[4] = (members[4][0], members[4][1][:60])
    write(folder / "train-000001.tar", members)


def test_a_damaged_image_is_named_and_may_be_left_out(folder: Path) -> None:
    damage_an_image(folder)
    with pytest.raises(DataError, match=r"train-000001\.tar: 000011\.png: cannot be read as an im"):
        load_dataset(folder)
    found = load_dataset(folder, skip_bad=True)
    assert found.skipped == (f"{folder / 'train-000001.tar'}: 000011.png",)
    assert len(found.train) == 17


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def link(path: Path) -> None:
    with tarfile.open(path, "a") as archive:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "000009.png")):
            info = tarfile.TarInfo("escape.png")
            info.type, info.linkname = kind, target
            archive.addfile(info)


BAD = {
    "cut in a member": (lambda path: cut(path, 0.5), "is cut off or compressed"),
    "cut between members": (lambda path: cut(path, 0.2), "is cut off or compressed"),
    "empty": (lambda path: path.write_bytes(b""), "is cut off or compressed"),
    "no tar": (lambda path: path.write_bytes(b"x" * 2048 + bytes(1024)), "as an uncompressed tar"),
    "compressed": (lambda path: write(path, pairs(range(9)), "w:gz"), "is cut off or compressed"),
    "no members": (lambda path: write(path, []), "holds no images"),
    "no class": (lambda path: write(path, pairs(range(9, 18))[:-1]), "000017 has no class"),
    "no image": (lambda path: write(path, pairs(range(9, 18))[1:]), "000009 has no image"),
    "empty class": (
        lambda path: write(path, [*pairs([9])[:1], ("000009.cls", b" \n")]),
        "000009.cls holds no class",
    ),
    "long class": (
        lambda path: write(path, [*pairs([9])[:1], ("000009.cls", b"x" * 2000)]),
        "too long for a class",
    ),
    "two images": (
        lambda path: write(path, [*pairs([9]), ("000009.jpg", b"x")]),
        "000009 has two images",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_shard_that_cannot_be_used_is_named(case: str, folder: Path) -> None:
    spoil, message = BAD[case]
    spoil(folder / "train-000001.tar")
    with pytest.raises(DataError, match=rf"train-000001\.tar: .*{message}"):
        load_dataset(folder, skip_bad=True)


def test_links_and_names_that_climb_out_are_never_followed(folder: Path, tmp_path: Path) -> None:
    link(folder / "train-000001.tar")
    write(folder / "train-000002.tar", pairs(range(3), "../../../out/"))
    before = sorted(tmp_path.rglob("*"))
    assert len(load_dataset(folder).train) == 21
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_that_is_too_large_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 50)
    with pytest.raises(DataError, match=r"000000\.png has \d+ bytes, too many"):
        load_dataset(folder)


@pytest.mark.parametrize("given", ["", "train-{000000..000002}.tar"])
def test_a_missing_shard_is_named(given: str, folder: Path) -> None:
    write(folder / "train-000002.tar", pairs(range(3)))
    (folder / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: this shard .*is missing.*bring it"):
        load_dataset(folder / given if given else folder)


@pytest.mark.parametrize("fate", ["gone", "shorter"])
def test_a_shard_that_disappears_while_it_is_read_is_named(
    fate: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where images may be left out: thousands of them are no damaged image."""
    read_listing = module.read_listing

    def lose(*arguments: object, **options: object) -> object:
        shard = folder / "train-000001.tar"
        shard.unlink() if fate == "gone" else cut(shard, 0.3)
        return read_listing(*arguments, **options)

    monkeypatch.setattr(module, "read_listing", lose)
    with pytest.raises(DataError, match=r"train-000001\.tar: the shard (cannot|has be)"):
        load_dataset(folder, skip_bad=True)


def test_a_folder_without_shards_is_none_of_shards(tmp_path: Path) -> None:
    (tmp_path / ".hidden.tar").touch()
    assert module.shards_in(tmp_path) == {}
    assert module.shards_in(tmp_path / "no.tar") == {}
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("birds-train-{}", "birds-val-{}"),
        ("training_{}", "test_{}"),
        ("TRAIN{}", "validation{}"),
        ("train/{}", "valid/{}"),
        ("part1/train-{}", "part1/val-{}"),
    ],
)
def test_the_split_is_any_word_of_a_name(train: str, test: str, tmp_path: Path) -> None:
    write(tmp_path / (train.format("000000") + ".tar"), pairs(range(9)))
    write(tmp_path / (test.format("000000") + ".tar"), pairs(range(9, 18)))
    found = load_dataset(tmp_path)
    assert found.test is not None
    np.testing.assert_array_equal(found.train.images, PICTURES[:9].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found.test.images, PICTURES[9:18].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["test-000000"], "has shards for testing alone; put train into the names of others"),
        (["train-000000", "extra-000000"], "extra-000000.tar: its name says no split, and"),
        (["val-000000", "extra-000000"], "extra-000000.tar: its name says no split, and"),
    ],
)
def test_names_that_leave_a_split_open_are_refused(
    others: list[str], words: str, tmp_path: Path
) -> None:
    for number, name in enumerate(others):
        write(tmp_path / f"{name}.tar", pairs(range(9 * number, 9 * number + 9)))
    with pytest.raises(DataError, match=re.escape(words)):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat\n\nemu\n", "line 2 is empty; name class 1 there"),
        ("cat\nemu\ncat\n", "has cat in lines 1 and 3"),
    ],
)
def test_names_of_classes_are_as_many_as_lines(folder: Path, content: str, words: str) -> None:
    (folder / "classes.txt").write_text(content, "utf-8")
    with pytest.raises(DataError, match=words):
        load_dataset(folder)
