"""Claim: contributions add up to every score to 1e-5, and insertion finds maps better than noise.

A convex block on CIFAR-10, from a run or trained here. On every test image, contributions of
patches, and of gates, plus the intercept are compared with the scores, relative to the largest
score. On the first test images every method is measured: deletion (low is good), insertion (high is
good), likeness to the maps of a model with shuffled weights (0 is good), and random maps beside
them. Colours of the filters, class by class, are recorded too, of this model and of one in the
paper's architecture (raw pixels, Gaussian gates, SGD): the paper saw blue in airplanes.

    python benchmarks/explanations.py --root DATA [--run RUN] [--images N] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from record import write_record

from convexcnn import (
    ConvexConvClassifier,
    exact_contributions,
    faithfulness_table,
    load_dataset,
    load_model,
    strongest_filters,
)
from convexcnn.data import ImageDataset
from convexcnn.environment import machine, versions
from convexcnn.explain import class_colours, gate_activity
from convexcnn.models.block_classifier import BlockClassifier
from convexcnn.solvers.sgd import SGD

TARGET = 1e-5
AT_ONCE = 1024
PAPERS = {"whiten": None, "gates": "gaussian", "stride": 4, "pooling": 1, "centre": False}
SHIFT = 10
"""By how many of 255 levels a colour is raised to see which classes gain."""


def sums(model: BlockClassifier, dataset: ImageDataset) -> dict[str, float]:
    """The largest errors of both sums over all test images, relative to the largest score."""
    assert dataset.test is not None
    by_patch = by_gate = largest = 0.0
    start = time.perf_counter()
    for first in range(0, len(dataset.test), AT_ONCE):
        images = dataset.test.images[first : first + AT_ONCE]
        scores, parts = model.scores(images), exact_contributions(model, images)
        by_patch = max(by_patch, float(np.abs(parts.scores - scores).max()))
        gates = parts.gates.sum(2) + parts.intercept
        by_gate = max(by_gate, float(np.abs(gates - scores).max()))
        largest = max(largest, float(np.abs(scores).max()))
    return {
        "images": len(dataset.test),
        "largest_score": largest,
        "largest_error_patches": by_patch / largest,
        "largest_error_gates": by_gate / largest,
        "seconds": round(time.perf_counter() - start, 2),
    }


def colours(model: BlockClassifier, dataset: ImageDataset) -> dict[str, object]:
    """Colours of the filters, and what every class gains when a channel of all images is raised."""
    assert dataset.test is not None
    images = dataset.test.images[:2000].astype(np.float32)
    before = model.scores(images).mean(0)
    gains = []
    for channel in range(3):
        raised = images.copy()
        raised[:, channel] += SHIFT
        gains.append(model.scores(raised).mean(0) - before)
    found = class_colours(strongest_filters(model, 10**6))
    strongest = class_colours(strongest_filters(model, 32))
    rows = {
        name: {
            "mean_weight_rgb": [round(float(v), 5) for v in found.mean[c]],
            "mean_weight_rgb_32_strongest": [round(float(v), 4) for v in strongest.mean[c]],
            "energy_share_rgb": [round(float(v), 3) for v in found.share[c]],
            "dominant": "RGB"[int(found.dominant[c])],
            "gain_of_raised_rgb": [round(float(gain[c]), 4) for gain in gains],
        }
        for c, name in enumerate(dataset.classes)
    }
    activity = gate_activity(model, dataset.test.images[:1000])
    quantiles = [round(float(q), 3) for q in np.quantile(activity, [0, 0.25, 0.5, 0.75, 1])]
    return {"raised_by": SHIFT, "classes": rows, "gate_activity_quartiles": quantiles}


def papers_model(dataset: ImageDataset) -> ConvexConvClassifier:
    """The paper's architecture, trained briefly by SGD on the same images."""
    solver = SGD(epochs=20, batch_size=500, learning_rate=1e-3)
    model = ConvexConvClassifier(n_gates=128, solver=solver, betas=1e-4, **PAPERS)
    few = dataset.train.take(np.arange(min(10_000, len(dataset.train))))
    return model.fit(few.images, few.labels)


def main() -> int:
    """Measure, print and write the numbers; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run; without it one is trained")
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--gates", type=int, default=64)
    parser.add_argument("--images", type=int, default=500, help="for the table")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/explanations.json"))
    arguments = parser.parse_args()
    limit = None if arguments.run else arguments.train_images
    dataset = load_dataset("cifar10", root=arguments.root, limit=limit)
    assert dataset.test is not None
    if arguments.run is None:
        model: BlockClassifier = ConvexConvClassifier(n_gates=arguments.gates)
        model.fit(dataset.train.images, dataset.train.labels)
    else:
        model = load_model(arguments.run)
    added = sums(model, dataset)
    start = time.perf_counter()
    table = faithfulness_table(model, dataset.test.images[: arguments.images])
    seconds = time.perf_counter() - start
    rows = [row.to_dict() for row in table]
    noise = next(row["insertion"] for row in rows if row["method"] == "random")
    worst = max(added["largest_error_patches"], added["largest_error_gates"])
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "train_images": model.n_train_,
        "gates": len(getattr(model, "gates_", ())),
        "test_accuracy": model.score(dataset.test.images, dataset.test.labels),
        "sums": added,
        "target": TARGET,
        "reached": worst <= TARGET,
        "table_images": arguments.images,
        "table_seconds": round(seconds, 1),
        "table": rows,
        "insertion": [
            {
                "name": f"insertion, {row['method']}",
                "above": noise,
                "value": row["insertion"],
                "reached": row["insertion"] > noise,
            }
            for row in rows
            if row["method"] != "random"
        ],
        "colours": colours(model, dataset),
        "colours_of_the_papers_architecture": colours(papers_model(dataset), dataset),
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
