"""Train networks without convexity beside a stack, for as many minutes: `fit --baselines`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexcnn.cli.console import Callback, Console, duration, percent
from convexcnn.cli.run_folder import write_json
from convexcnn.errors import ConvexcnnError, SettingError

if TYPE_CHECKING:
    from convexcnn.data import ImageDataset
    from convexcnn.models import EndToEndCNN

Result = dict[str, Any]

GREEDY = "greedy"
"""The stack's own blocks, trained one after the other by SGD: `models.greedy`."""

BASELINES = ("alexnet", "vgg11", GREEDY)
"""`greedy` and the names of `models.networks.NETWORKS`, which would import torch for help."""

PARTS = "baselines"
"""Folder of finished baselines inside an unfinished run."""


def read_baselines(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the networks that a stack is to be measured against, if any.

    Args:
        settings: with `baselines`, names with commas between them or a list of names.

    Raises:
        SettingError: an unknown name, no names, or a run that is not of a stack with a budget.
    """
    value = settings.get("baselines", ())
    if not isinstance(value, (str, list, tuple)):
        raise SettingError(f"baselines is {value!r}; give names, such as 'alexnet,vgg11'")
    parts = value.split(",") if isinstance(value, str) else value
    names = tuple(dict.fromkeys(str(part).strip() for part in parts))
    for name in names:
        if name not in BASELINES:
            known = ", ".join(BASELINES)
            raise SettingError(f"baseline {name!r} is not known; choose from {known}")
    if names and settings.get("model", "two-layer") != "layerwise":
        raise SettingError("baselines are for stacks; add --model layerwise, or leave them out")
    if names and settings.get("budget") is None:
        raise SettingError("baselines are trained for the minutes of --budget; give --budget too")
    return names


def train_baselines(
    names: Sequence[str],
    dataset: ImageDataset,
    settings: Mapping[str, Any],
    folder: Path,
    callback: Callback,
    note: Callable[[str], None],
) -> list[Result]:
    """Train networks on what a stack was trained on, and measure them on the same images.

    Those that an interrupted run has finished are taken from its folder.

    Args:
        names: of the networks.
        dataset: the same as the stack's.
        settings: the stack's: `budget`, `augment`, `validation_fraction`, `device`, `seed`, and for
            `greedy` its `blocks` and `n_gates`.
        folder: of the run.
        callback: called with every event.
        note: told why a network could not be trained; the run is worth keeping without it.

    Returns:
        One entry of `result.json` per network.
    """
    parts = folder / PARTS
    if names:
        parts.mkdir(exist_ok=True)
    entries = []
    for name in names:
        part = parts / f"{name}.json"
        if not part.exists():
            try:
                entry = _train(name, dataset, settings, callback)
            except ConvexcnnError as error:
                note(f"Warning: the baseline {name} is left out ({error}).")
                continue
            write_json(part, entry)
        entries.append(json.loads(part.read_text(encoding="utf-8")))
    return entries


def _train(
    name: str, dataset: ImageDataset, settings: Mapping[str, Any], callback: Callback
) -> Result:
    from convexcnn.models.evaluation import evaluate_model

    budget = float(settings["budget"])
    total = max(1, round(60 * budget))

    def tell(event: dict[str, Any]) -> None:
        step = min(round(event["seconds"]), total)
        callback({**event, "phase": f"baseline {name}", "step": step, "steps": total})

    model = _untrained(name, dataset.image_shape, settings)
    model.set_params(
        budget=budget,
        augment="flip+crop" if "flip" in settings["augment"] else "crop",
        validation_fraction=settings["validation_fraction"],
        device=settings["device"],
        random_state=settings["seed"],
        callback=tell,
    )
    model.fit(dataset.train.images, dataset.train.labels)
    measured = {
        part: evaluate_model(model, split, len(dataset.classes)).summary()
        for part, split in (("train", dataset.train), ("test", dataset.test))
        if split is not None
    }
    return _entry(name, model, measured)


def _untrained(
    name: str, image_shape: tuple[int, int, int], settings: Mapping[str, Any]
) -> EndToEndCNN:
    from convexcnn.cli.settings import read_raw_pixels
    from convexcnn.models import EndToEndCNN, GreedyCNN
    from convexcnn.models.stack_settings import read_blocks

    if name != GREEDY:
        return EndToEndCNN(network=name)
    widths = {"n_gates": settings.get("n_gates")}
    blocks = read_raw_pixels(settings).get("blocks")
    return GreedyCNN(blocks=read_blocks(blocks, widths, image_shape))


def _entry(name: str, model: EndToEndCNN, measured: Mapping[str, dict[str, float]]) -> Result:
    """What `result.json` holds of a baseline."""
    recipe = model.recipe
    curve = [
        {key: value for key, value in event.items() if key not in ("phase", "step")}
        for event in model.curve_
    ]
    return {
        "network": name,
        "train": measured["train"],
        "validation": {"accuracy": model.validation_accuracy_},
        "test": measured.get("test"),
        "loss": model.loss,
        "minutes": curve[-1]["seconds"] / 60,
        "epochs": model.n_epochs_,
        "parameters": model.n_parameters(),
        "augment": model.augment,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "curve": curve,
        "blocks": getattr(model, "block_accuracies_", None),
    }


def show_baselines(result: Result, console: Console) -> None:
    """Print a line for the stack, and one for every network it is measured against."""
    if not result["baselines"]:
        return
    columns = ["against descent", "training images", "test images", "time", "epochs"]
    blocks = sum(block["seconds"] for block in result["blocks"])
    rows = [["this stack", *_accuracies(result), duration(blocks), "-"]]
    rows += [
        [
            entry["network"],
            *_accuracies(entry),
            duration(60 * entry["minutes"]),
            f"{entry['epochs']:.1f}",
        ]
        for entry in result["baselines"]
    ]
    console.table(columns, rows)


def _accuracies(entry: Result) -> list[str]:
    test = entry["test"]
    return [percent(entry["train"]["accuracy"]), percent(test["accuracy"] if test else None)]
