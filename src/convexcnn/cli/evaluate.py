"""`convexcnn evaluate`: how well a trained model does on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convexcnn.cli.options import FOLDER, data_options, output_options, run_seed_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convexcnn.data import ImageDataset, ImageSplit


@click.command(name="evaluate", short_help="Measure a trained model on labelled images.")
@click.argument("run", type=FOLDER)
@click.argument("data")
@click.option(
    "--split",
    type=click.Choice(["test", "train", "all"]),
    default="test",
    show_default=True,
    help="Which images of DATA to use.",
)
@data_options
@run_seed_option
@output_options
def command(
    run: Path,
    data: str,
    *,
    split: str,
    root: Path | None,
    download: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Measure the model of RUN on DATA: accuracy, loss, and both class by class.

    DATA is a name ('convexcnn data list' shows them), a folder of class folders, of tar shards or
    of images.npy and labels.npy, a .csv of labels, or an .npz file, with the classes and the image
    shape of the training data. It is read as RUN read its data, with the --seed and --image-size in
    its config.toml unless they are given: where DATA has no test images of its own, the same fifth
    of it is set aside. --split all uses everything.
    """
    import numpy as np

    from convexcnn.cli.console import Console, percent
    from convexcnn.cli.left_out import note_left_out
    from convexcnn.cli.trained import check_fits, load_trained, reading_of, warn_of_units
    from convexcnn.data import load_dataset
    from convexcnn.models.evaluation import evaluate_scores

    console = Console(as_json=as_json)
    model = load_trained(run)
    dataset = load_dataset(data, root=root, download=download, **reading_of(run, reading))
    note_left_out(dataset, console)
    check_fits(model, dataset)
    splits = _choose(dataset, split)
    warn_of_units(console, model, splits[0].images)
    scores = np.concatenate([model.scores(part.images) for part in splits])
    labels = np.concatenate([part.labels for part in splits])
    measured = evaluate_scores(model, scores, labels, len(dataset.classes))
    counts = measured.confusion.sum(axis=1).tolist()
    rows = [
        [name, f"{count:,}", percent(accuracy), _most_confused(measured.confusion, i, dataset)]
        for i, (name, count, accuracy) in enumerate(
            zip(dataset.classes, counts, measured.per_class, strict=True)
        )
    ]
    console.table(["class", "images", "accuracy", "most often taken for"], rows)
    console.show(f"Accuracy: {percent(measured.accuracy)} of {len(labels):,} images ({split})")
    console.show(f"Loss: {measured.loss:.4f} ({model.measured_by})")
    console.result(
        {
            "run": str(run),
            "data": dataset.describe(),
            "skipped": list(dataset.skipped),
            "split": split,
            "images": len(labels),
            "accuracy": measured.accuracy,
            "loss": measured.loss,
            "classes": list(dataset.classes),
            "per_class": measured.per_class,
            "confusion": measured.confusion,
        }
    )


def _choose(dataset: ImageDataset, split: str) -> list[ImageSplit]:
    from convexcnn.errors import DataError

    if split == "train" or (split == "all" and dataset.test is None):
        return [dataset.train]
    if dataset.test is None:
        raise DataError(f"{dataset.name} has no test images; use --split train")
    return [dataset.test] if split == "test" else [dataset.train, dataset.test]


def _most_confused(confusion: NDArray[np.int64], label: int, dataset: ImageDataset) -> str:
    """Return the class that images of this one are most often mistaken for."""
    mistakes = confusion[label].copy()
    mistakes[label] = 0
    return dataset.classes[int(mistakes.argmax())] if mistakes.any() else "-"
