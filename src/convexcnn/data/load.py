"""One way in: a name or a path to a checked data set."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from convexcnn.data.arguments import as_path
from convexcnn.data.array_folder import is_array_folder, read_array_folder
from convexcnn.data.arrays import read_npz
from convexcnn.data.cifar import cifar_version_in
from convexcnn.data.dataset import ImageDataset
from convexcnn.data.folder import read_folder
from convexcnn.data.idx import idx_set_in
from convexcnn.data.limits import DATA_SHARE, budget_bytes
from convexcnn.data.listing import ReadOptions
from convexcnn.data.registry import DatasetInfo, dataset_registry
from convexcnn.data.resize import resize_dataset
from convexcnn.data.root import DataRoot
from convexcnn.data.shards import read_shards, shards_in
from convexcnn.data.table import read_table
from convexcnn.errors import DataError

MEANING = (
    f"DATA is a name ({', '.join(dataset_registry)}), a folder of class folders, "
    "of tar shards or of images.npy and labels.npy, a .csv with the columns path,label, or an "
    ".npz with images and labels"
)


def load_dataset(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    skip_bad: bool = False,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    memory_gb: float | None = None,
) -> ImageDataset:
    """Read a data set by name or from a path.

    A name of the registry wins over a folder of the same name; write ``./name`` for the folder.

    Args:
        name_or_path: a name such as ``cifar10``, a folder of class folders, of official CIFAR or
            MNIST files, of tar shards, or of ``images.npy`` and ``labels.npy``, a pattern such as
            ``train-{000000..000009}.tar``, a .csv of labels, or an .npz.
        root: the folder with official files; default the environment's CONVEXCNN_DATA, else
            ~/.cache/convexcnn.
        download: fetch official files that are missing into the root.
        skip_bad: leave out images that cannot be read, and list them in ``skipped``.
        image_size: side of square images: the shorter side is resized to it (bilinear), then the
            centre is cut out.
        limit: how many training images to keep, classes in proportion.
        seed: chooses the test split where the source has none, and what ``limit`` keeps.
        memory_gb: memory that a training may use; None for 60 % of the machine's. Images that
            would take more than a fifth of it lie in a temporary file, and are read from there.

    Returns:
        The data set, checked.

    Raises:
        DataError: there is no such data set, or its files cannot be used.
        RunError: no disk holds the images that do not fit in memory.
        SettingError: an argument is of another type, or cannot work.
    """
    info = named_dataset(name_or_path)
    path = as_path("name_or_path", name_or_path)
    room = DATA_SHARE * budget_bytes(memory_gb)
    options = ReadOptions(image_size, skip_bad, limit, seed, room)
    if info is not None:
        dataset = info.source.load(DataRoot.resolve(root, download))
    else:
        dataset = _read_path(path, str(name_or_path), options)
    if limit is not None:
        dataset = dataset.limit(limit, seed)
    if image_size is not None:
        dataset = resize_dataset(dataset, image_size, room=room)
    return dataset if memory_gb is None else dataset.within(room)


def _read_path(path: Path, given: str, options: ReadOptions) -> ImageDataset:
    """Read a folder or a file by what it holds."""
    if path.is_dir():
        if (cifar := cifar_version_in(path)) is not None:
            return cifar.read(path)
        if (idx := idx_set_in(path)) is not None:
            return idx.read(path)
        if is_array_folder(path):
            return read_array_folder(path, options.seed)
    if shards := shards_in(path):
        return read_shards(path, shards, options)
    if path.is_dir():
        return read_folder(path, options)
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path, options.seed)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return read_table(path, options)
    raise unknown_dataset(path, given)


def named_dataset(name_or_path: str | Path) -> DatasetInfo | None:
    """The data set of that name, however people spell it; None if there is none.

    Raises:
        DataError: the name is empty, which as a path would be the folder at hand.
    """
    if name_or_path == "":
        raise DataError(f"the name of the data set is empty. {MEANING}")
    if not isinstance(name_or_path, str):
        return None
    by_letters = {_letters(name): info for name, info in dataset_registry.items()}
    return by_letters.get(_letters(name_or_path))


def _letters(name: str) -> str:
    """A name without the spelling differences people make: CIFAR-10, cifar_10, cifar10."""
    return re.sub(r"[-_ ]", "", name.lower())


def unknown_dataset(path: Path, given: str) -> DataError:
    """What was given is neither a name nor readable: say what is nearest."""
    close = difflib.get_close_matches(given.lower(), dataset_registry, n=1)
    if path.is_file():
        problem = f"{given} is a file of another kind."
    elif close:
        problem = f"no data set {given}; did you mean {close[0]}?"
    else:
        problem = f"no data set, folder or file {given}."
    return DataError(f"{problem} {MEANING}")
