"""How large a data set is, found out without reading its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convexcnn.data.arguments import as_path
from convexcnn.data.array_folder import is_array_folder, read_array_folder
from convexcnn.data.arrays import read_npz
from convexcnn.data.cifar import cifar_version_in
from convexcnn.data.dataset import ImageDataset
from convexcnn.data.decode import ImageFile, common_kind
from convexcnn.data.folder import list_folder
from convexcnn.data.idx import idx_set_in
from convexcnn.data.limits import DATA_SHARE, budget_bytes
from convexcnn.data.listing import LabelledFile, ReadOptions, divide
from convexcnn.data.load import named_dataset, unknown_dataset
from convexcnn.data.registry import DatasetInfo, dataset_registry
from convexcnn.data.resize import as_box
from convexcnn.data.shards import list_shards, shards_in
from convexcnn.data.table import list_table
from convexcnn.errors import SettingError

SAMPLE = 32
"""Image files, evenly spaced, that are looked into."""


@dataclass(frozen=True)
class DataSurvey:
    """What a training needs to know of a data set to be planned.

    Args:
        name: what was given for DATA.
        n_train: training images.
        n_test: test images, 0 for none.
        image_shape: channels, height and width.
        n_classes: k.
        item_bytes: of one number in an image.
        n_files: image files to decode; 0 where images come as an array.
        files: some of them.
        in_place: whether images are read from an array in a file of the user's.

    Raises:
        SettingError: a number that is not positive, or fewer than two classes.
    """

    name: str
    n_train: int
    n_test: int
    image_shape: tuple[int, int, int]
    n_classes: int
    item_bytes: int = 1
    n_files: int = 0
    files: tuple[ImageFile, ...] = ()
    in_place: bool = False

    def __post_init__(self) -> None:
        if min(self.image_shape) < 1:
            raise SettingError(
                f"shape is {','.join(map(str, self.image_shape))}; give channels,height,width as "
                f"positive numbers, such as 3,224,224"
            )
        if self.n_classes < 2:
            raise SettingError(f"classes is {self.n_classes}; give at least 2")
        if self.n_train < self.n_classes:
            raise SettingError(
                f"there are {self.n_train} training images and {self.n_classes} classes; a "
                f"classifier needs an image of every class"
            )

    @property
    def pixels(self) -> int:
        """Numbers in an image."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def n_bytes(self) -> int:
        """Of all images in memory."""
        return (self.n_train + self.n_test) * self.pixels * self.item_bytes

    def in_memory(self, memory_gb: float | None) -> bool:
        """Whether ``load_dataset`` keeps the images in memory instead of a file."""
        if self.in_place:
            return False
        as_they_came = memory_gb is None and not self.n_files
        return as_they_came or self.n_bytes <= DATA_SHARE * budget_bytes(memory_gb)

    def describe(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        return {
            "name": self.name,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "image_shape": list(self.image_shape),
            "n_classes": self.n_classes,
            "bytes": self.n_bytes,
            "files": self.n_files,
        }


def survey_dataset(
    name_or_path: str | Path,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> DataSurvey:
    """Find out how large a data set is, as ``load_dataset`` would read it.

    A name needs no files. Of a folder or a table, files are counted and a few are looked into.

    Args:
        name_or_path: as for ``load_dataset``.
        image_size: side that images are brought to.
        limit: how many training images are kept.
        seed: chooses the test split where the source has none.

    Raises:
        DataError: there is no such data set, or its files cannot be used.
        SettingError: ``limit`` is smaller than the number of classes, or an argument is of
            another type.
    """
    options = ReadOptions(image_size, limit=limit, seed=seed)
    info = named_dataset(name_or_path)
    path = as_path("name_or_path", name_or_path)
    found = _of_path(path, str(name_or_path), options) if info is None else _of_info(info)
    if image_size is not None:
        found = replace(found, image_shape=(found.image_shape[0], *as_box(image_size)))
    if limit is None or limit >= found.n_train:
        return found
    if limit < found.n_classes:
        raise SettingError(
            f"limit is {limit}, but there are {found.n_classes} classes; give at least "
            f"{found.n_classes}"
        )
    fewer = found.n_train - limit if found.n_files else 0
    return replace(found, n_train=limit, n_files=found.n_files - fewer)


def _of_info(info: DatasetInfo) -> DataSurvey:
    return DataSurvey(info.name, info.n_train, info.n_test, info.image_shape, info.n_classes)


def _of_path(path: Path, given: str, options: ReadOptions) -> DataSurvey:
    if path.is_dir():
        if (cifar := cifar_version_in(path)) is not None:
            return _of_info(dataset_registry[f"cifar{cifar.n_classes}"])
        if (idx := idx_set_in(path)) is not None:
            return _of_info(next(i for i in dataset_registry.values() if i.source is idx))
        if is_array_folder(path):
            arrays = _of_dataset(given, read_array_folder(path, options.seed))
            return replace(arrays, in_place=True)
    if shards := shards_in(path):
        return _of_files(given, list_shards(shards), options)
    if path.is_dir():
        return _of_files(given, list_folder(path), options)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return _of_files(given, list_table(path), options)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _of_dataset(given, read_npz(path, options.seed))
    raise unknown_dataset(path, given)


def _of_dataset(given: str, dataset: ImageDataset) -> DataSurvey:
    """What there is of arrays, which are opened already."""
    n_test = 0 if dataset.test is None else len(dataset.test)
    sizes = len(dataset.train), n_test, dataset.image_shape, len(dataset.classes)
    return DataSurvey(given, *sizes, dataset.train.images.dtype.itemsize)


def _of_files(
    given: str, splits: dict[str, list[LabelledFile]], options: ReadOptions
) -> DataSurvey:
    """Count files; a few of them say how large images are, and whether they have colour."""
    train, test, _ = divide(splits, given, options.seed)
    classes = len({file.label for file in train})
    sample = _spread([file.path for file in (*train, *test)])
    shape = common_kind(sample, options.image_size)
    n_files = len(train) + len(test)
    return DataSurvey(given, len(train), len(test), shape, classes, 1, n_files, tuple(sample))


def _spread(paths: Sequence[ImageFile]) -> list[ImageFile]:
    step = max(1, len(paths) // SAMPLE)
    return list(paths[::step][:SAMPLE])
