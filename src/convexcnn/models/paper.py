"""The paper protocol: the convex and the non-convex two-layer CNN, trained by the same SGD.

Chang & Lee, *Peeking into the Black Box*: momentum 0.9, 100 epochs, batches of 1,000, 1,024
filters of 6x6 with stride 4, one pooling cell, squared loss, learning rate 1e-4.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from convexcnn.data.dataset import ImageDataset
from convexcnn.environment import peak_memory_bytes
from convexcnn.errors import DataError, RunError
from convexcnn.models.block_classifier import BlockClassifier
from convexcnn.models.evaluation import evaluate_model
from convexcnn.models.io import MODEL_FILES, save_model, write_filters
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.two_layer import ConvexConvClassifier
from convexcnn.models.whole_files import write_arrays
from convexcnn.solvers.result import Callback
from convexcnn.solvers.sgd import SGD

LOSS_SCALE = 5.0
"""What the protocol's learning rate is multiplied by, for both formulations alike.

The paper leaves open over what its loss is summed. Applied to the loss summed over classes and
averaged over the batch, 1e-4 is too slow for either of its curves; five times that ends near them.
"""

FORMULATIONS = ("gated", "non-convex")
MILESTONE = 0.4
"""Training accuracy whose first step is reported."""

PAPER = {
    "gated": {"train_loss": 0.3469, "train_accuracy": 0.520, "test_accuracy": 0.5036},
    "non-convex": {"train_loss": 0.3735, "train_accuracy": 0.478, "test_accuracy": 0.4474},
}
"""Table 1 of the paper, CIFAR-10."""


def protocol_solver(epochs: int, batch_size: int, learning_rate: float, momentum: float) -> SGD:
    """The SGD that trains both formulations.

    Raises:
        SettingError: a value that cannot work.
    """
    return SGD(epochs, batch_size, learning_rate * LOSS_SCALE, momentum)


def run_paper_protocol(
    dataset: ImageDataset,
    *,
    seeds: Sequence[int],
    folder: Path,
    epochs: int = 100,
    batch_size: int = 1000,
    filters: int = 1024,
    filter_size: int = 6,
    stride: int = 4,
    learning_rate: float = 1e-4,
    momentum: float = 0.9,
    device: str = "auto",
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Train both formulations for every seed and summarise them as the paper's Table 1 does.

    Every finished pair of formulation and seed is kept in ``folder``; calling again with the same
    folder continues with the rest.

    Args:
        dataset: with test images.
        seeds: one run of each formulation per seed.
        folder: receives ``metrics.jsonl``, ``filters.safetensors``, ``models/`` and ``units/``.
        epochs: passes over the training images.
        batch_size: images per step.
        filters: filters of the non-convex network and gates of the convex program.
        filter_size: side of both, in pixels.
        stride: in pixels.
        learning_rate: multiplied by ``LOSS_SCALE`` for the loss averaged over the batch.
        momentum: of SGD.
        device: ``auto``, ``cpu`` or ``cuda``.
        callback: called with one event per logged step.

    Returns:
        The contents of ``result.json``, without settings and machine.

    Raises:
        DataError: the data set has no test images.
        RunError: finished models in the folder are of other images.
        SettingError: a setting that cannot work, with any of the seeds; nothing is trained then.
    """
    if dataset.test is None:
        raise DataError(f"{dataset.name} has no test images; compare needs some")
    solver = protocol_solver(epochs, batch_size, learning_rate, momentum)
    architecture = {
        "filter_size": filter_size,
        "stride": stride,
        "pooling": 1,
        "whiten": None,
        "centre": True,
        "augment": "none",
        "loss": "squared",
        "solver": solver,
        "device": device,
    }
    for seed in seeds:
        for formulation in FORMULATIONS:
            _model(formulation, filters, seed, architecture).check_parameters()
    units, images = [], dataset.whole_fingerprint()
    for seed in seeds:
        for formulation in FORMULATIONS:
            unit_folder = folder / "units" / f"{formulation}-{seed}"
            if not (unit_folder / "unit.json").exists():
                model = _model(formulation, filters, seed, architecture)
                _train_unit(model, formulation, seed, dataset, images, unit_folder, callback)
            unit = json.loads((unit_folder / "unit.json").read_text("utf-8"))
            if unit.get("images") != images:
                raise RunError(
                    f"{unit_folder} was trained on other images, or by an earlier version; remove "
                    f"{folder} to train anew"
                )
            units.append(unit)
    _gather(folder, units)
    first = [unit for unit in units if unit["run"]["seed"] == seeds[0]]
    runs = [unit["run"] for unit in units]
    return {
        "format": 1,
        "kind": "compare",
        "data": dataset.describe(),
        "runs": runs,
        "summary": {name: _summary(runs, name) for name in FORMULATIONS},
        "paper": PAPER if dataset.name == "cifar10" else {},
        "loss_scale": LOSS_SCALE,
        "confusion": {unit["run"]["formulation"]: unit["confusion"] for unit in first},
        "seconds": sum(run["seconds"] for run in runs),
    }


def _model(
    formulation: str, filters: int, seed: int, architecture: dict[str, Any]
) -> BlockClassifier:
    if formulation == "gated":
        return ConvexConvClassifier(
            n_gates=filters, gates="gaussian", betas=0.0, random_state=seed, **architecture
        )
    return NonConvexConvClassifier(
        n_filters=filters, validation_fraction=0.0, random_state=seed, **architecture
    )


def _train_unit(
    model: BlockClassifier,
    formulation: str,
    seed: int,
    dataset: ImageDataset,
    images: str,
    folder: Path,
    callback: Callback | None,
) -> None:
    """Train one model and write its files; ``unit.json`` comes last and marks it finished.

    ``images`` is the fingerprint of training and test images.
    """
    events: list[dict[str, Any]] = []

    def record(event: dict[str, Any]) -> None:
        if "train_loss" in event:
            events.append({"formulation": formulation, "seed": seed, **event})
        if callback is not None:
            callback({"phase": f"{formulation}, seed {seed}", **_without(event, "phase")})

    assert dataset.test is not None
    start = time.perf_counter()
    model.set_params(callback=record)
    model.fit(dataset.train.images, dataset.train.labels)
    seconds = time.perf_counter() - start
    model.set_params(callback=None)
    model.class_names, model.fingerprint_ = dataset.classes, dataset.fingerprint()
    k = len(dataset.classes)
    test = evaluate_model(model, dataset.test, k)
    run = {
        "formulation": formulation,
        "seed": seed,
        "train": evaluate_model(model, dataset.train, k).summary(),
        "test": test.summary(),
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "steps": events[-1]["step"],
        "steps_to_accuracy": {str(MILESTONE): _first_step(events, MILESTONE)},
    }
    save_model(model, folder)
    write_filters(folder / "filters.safetensors", model)
    confusion = test.confusion.tolist()
    unit = {"run": run, "confusion": confusion, "events": events, "images": images}
    temporary = folder / "unit.json.part"
    temporary.write_text(json.dumps(unit), "utf-8")
    temporary.replace(folder / "unit.json")


def _first_step(events: list[dict[str, Any]], accuracy: float) -> int | None:
    """The first logged step from which on the training accuracy was reached."""
    return next((e["step"] for e in events if e["train_accuracy"] >= accuracy), None)


def _gather(folder: Path, units: list[dict[str, Any]]) -> None:
    """Bring the finished units' curves, filters and first models to where reports look."""
    lines = (json.dumps(_without(e, "phase")) for unit in units for e in unit["events"])
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    filters: dict[str, NDArray[np.float32]] = {}
    for unit in units[: len(FORMULATIONS)]:
        name = unit["run"]["formulation"]
        source = folder / "units" / f"{name}-{unit['run']['seed']}"
        filters |= load_file(source / "filters.safetensors")
        target = folder / "models" / name
        target.mkdir(parents=True, exist_ok=True)
        for file in MODEL_FILES:
            (target / file).write_bytes((source / file).read_bytes())
    write_arrays(folder / "filters.safetensors", filters)


def _summary(runs: list[dict[str, Any]], formulation: str) -> dict[str, dict[str, float]]:
    mine = [run for run in runs if run["formulation"] == formulation]
    measures = {
        f"{split}_{name}": [run[split][name] for run in mine]
        for split in ("train", "test")
        for name in ("loss", "accuracy")
    }
    return {name: {"mean": _mean(v), "std": _std(v)} for name, v in measures.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
