"""`convexcnn data`: which data sets there are, and what is in one."""

from __future__ import annotations

from pathlib import Path

import click

from convexcnn.cli.console import Console
from convexcnn.cli.left_out import note_left_out
from convexcnn.cli.options import data_options, limit_option, output_options, seed_option


@click.group(name="data", short_help="List data sets, or look into one.")
def command() -> None:
    """See which data sets have a name, and what is in a data set."""


@command.command(name="list", short_help="List the data sets that have a name.")
@output_options
def list_command(*, as_json: bool) -> None:
    """List the data sets that have a name.

    Offline ones come with installed packages. The files of the others are looked for in --root,
    else in the folder named by the environment variable CONVEXCNN_DATA, else in
    ~/.cache/convexcnn; 'convexcnn data info NAME --download' fetches them.
    """
    from convexcnn.data import available_datasets

    console = Console(as_json=as_json)
    datasets = available_datasets()
    rows = [
        [
            info.name,
            "x".join(map(str, info.image_shape)),
            str(info.n_classes),
            f"{info.n_train:,}",
            f"{info.n_test:,}",
            "offline" if info.offline else "official files",
        ]
        for info in datasets
    ]
    console.table(["name", "image", "classes", "training", "test", "from"], rows)
    console.show(
        "Also: a folder of class folders, tar shards or arrays, a .csv of labels, or an .npz."
    )
    console.result({"datasets": [info.to_dict() for info in datasets]})


@command.command(name="info", short_help="Say what is in a data set.")
@click.argument("data")
@data_options
@limit_option
@seed_option
@output_options
def info_command(
    data: str,
    *,
    root: Path | None,
    download: bool,
    skip_bad: bool,
    image_size: int | None,
    limit: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Read DATA as fit would, and say what is in it.

    DATA is a name ('convexcnn data list' shows them), a folder of class folders, of tar shards or
    of images.npy and labels.npy, a .csv of labels, or an .npz file.
    """
    import numpy as np

    from convexcnn.data import load_dataset

    console = Console(as_json=as_json)
    dataset = load_dataset(
        data,
        root=root,
        download=download,
        skip_bad=skip_bad,
        image_size=image_size,
        limit=limit,
        seed=seed,
    )
    k = len(dataset.classes)
    train = np.bincount(dataset.train.labels, minlength=k)
    test = np.bincount(dataset.test.labels, minlength=k) if dataset.test else np.zeros(k, int)
    description = dataset.describe()
    channels, height, width = dataset.image_shape
    console.show(f"{dataset.name}: {dataset.source}")
    console.show(
        f"{len(dataset.train):,} training and {int(test.sum()):,} test images of "
        f"{height}x{width} pixels, {'grey' if channels == 1 else f'{channels} channels'}"
    )
    rows = [[name, f"{train[i]:,}", f"{test[i]:,}"] for i, name in enumerate(dataset.classes)]
    console.table(["class", "training", "test"], rows)
    note_left_out(dataset, console)
    console.show(f"Fingerprint: {description['fingerprint']}")
    console.result(
        description
        | {
            "skipped": list(dataset.skipped),
            "passed_over": len(dataset.passed_over),
            "train_per_class": dict(zip(dataset.classes, train.tolist(), strict=True)),
            "test_per_class": dict(zip(dataset.classes, test.tolist(), strict=True)),
        }
    )
