"""Claim: an occlusion map of a convex block is at least 5 times faster than captum's, and the same.

One 32x32 image, an 8x8 window, stride 2: 169 windows, the mean colour of the training images as
filling, on one model: the gated block of a run, or one trained on a few CIFAR-10 images. captum's
``Occlusion`` runs as it is called by default, one window per call, and with all windows in one
batch; on the block as a torch module, and on ``model.scores``, the fastest way to score it. All
take turns, several times; the claim is about the faster of captum's two default runs.

    python benchmarks/occlusion_speed.py --root DATA [--run RUN] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from captum.attr import Occlusion
from record import write_record

from convexcnn import ConvexConvClassifier, load_dataset, load_model, occlusion_map
from convexcnn.environment import machine, versions

TARGET = 5.0
SAME = 1e-4
"""Difference of the maps, relative to the largest value."""
WINDOWS = 169
TURNS = 15


def main() -> int:
    """Measure, print and write the ratios; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run; without it one is trained")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/occlusion_speed.json"))
    arguments = parser.parse_args()
    dataset = load_dataset("cifar10", root=arguments.root)
    assert dataset.test is not None
    if arguments.run is None:
        few = dataset.train.take(np.arange(3000))
        model = ConvexConvClassifier(gates="patches").fit(few.images, few.labels)
    else:
        model = load_model(arguments.run)
    image = torch.from_numpy(dataset.test.images[:1]).float()
    fill = torch.tensor(model.scaler_.mean)[None, :, None, None].expand(image.shape)
    module = model.to_torch()
    on_module = Occlusion(module)
    on_scores = Occlusion(lambda images: torch.from_numpy(model.scores(images)))

    def captum(occlusion: Occlusion, at_once: int) -> np.ndarray:
        maps = occlusion.attribute(
            image, (3, 8, 8), (3, 2, 2), baselines=fill, target=0, perturbations_per_eval=at_once
        )
        return maps.detach().numpy()

    ways: dict[str, Callable[[], np.ndarray]] = {
        "convexcnn": lambda: occlusion_map(model, image, 0),
        "convexcnn_module": lambda: occlusion_map(module, image, 0, fill=fill, batch_size=4),
        "captum_module": lambda: captum(on_module, 1),
        "captum_module_batched": lambda: captum(on_module, WINDOWS),
        "captum_scores": lambda: captum(on_scores, 1),
        "captum_scores_batched": lambda: captum(on_scores, WINDOWS),
    }
    with torch.no_grad():
        maps = {name: way() for name, way in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: round(medians[name] / medians["convexcnn"], 2) for name in ways}
    speedup = min(ratios["captum_module"], ratios["captum_scores"])
    difference = float(np.abs(maps["convexcnn"] - maps["captum_module"]).max())
    largest = float(np.abs(maps["captum_module"]).max())
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "windows": WINDOWS,
        "turns": TURNS,
        "gates": len(model.gates_),
        "median_seconds": {name: round(value, 5) for name, value in medians.items()},
        "least_seconds": {name: round(min(times), 5) for name, times in seconds.items()},
        "times_slower_than_convexcnn": ratios,
        "speedup": speedup,
        "target": TARGET,
        "reached": speedup >= TARGET and difference <= SAME * largest,
        "largest_difference": difference,
        "largest_value": largest,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
