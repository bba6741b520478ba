"""Claim: the exact ReLU program on 5,000 CIFAR-10 images to gap 1e-2 in at most 60 minutes.

256 Gaussian gates of 6x6, stride 4, 64 patches per image, squared loss, group norm: 5,120 filters,
each with 320,000 inequalities. No filter may break one by more than 1e-6 of the largest response.
Beta is chosen on 1,000 of the training images, the optimum is then found on all 5,000, and gap and
violation are those of the independent certificate, in float64 over all patches. The test images
are only scored, once, by the ReLU network that the optimum is.

    python benchmarks/relu_cifar.py --root DATA [--threads 2] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from record import write_record

HERE = Path(__file__).parent
IMAGES, HELD_OUT, GATES = 5000, 1000, 256
BETAS = (1e-3, 4.6e-4, 2.2e-4, 1e-4, 4.6e-5)
TOLERANCE = 1e-2
TARGETS = {"relative_gap": 1e-2, "violation": 1e-6, "minutes": 60}


def main() -> int:
    """Choose beta, solve, certify, score, write; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "relu_cifar10.json")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    result = run(arguments.root)
    claim = __doc__.splitlines()[0].removeprefix("Claim: ")
    result = {"claim": claim, "threads": arguments.threads, **result}
    return write_record(result, arguments.out)


def run(root: Path | None) -> dict[str, Any]:
    """The whole benchmark; torch is imported once the number of threads is set."""
    import torch

    from convexcnn.certificates.certify_cones import certify_cones
    from convexcnn.data import ImageScaler, load_dataset
    from convexcnn.environment import machine, peak_memory_bytes, versions
    from convexcnn.patches.extract import PatchGeometry
    from convexcnn.patches.gates import gaussian_gates
    from convexcnn.patches.operator import GatedFeatures
    from convexcnn.patches.stream import ImageStream
    from convexcnn.patches.whiten import fit_whitening
    from convexcnn.programs.kind import ProgramKind
    from convexcnn.solvers.cone_columns import ConeColumns
    from convexcnn.solvers.cones.patch_blocks import PatchBlocks
    from convexcnn.solvers.optimum import Optimum
    from convexcnn.solvers.warm_path import held_out_scores

    dataset = load_dataset("cifar10", root=root)
    scaler = ImageScaler.fit(dataset.train.images[:IMAGES])
    train, test = (
        ImageStream(part.images[:count], part.labels[:count], 10, scaler)
        for part, count in ((dataset.train, IMAGES), (dataset.test, None))
    )
    geometry = PatchGeometry(dataset.image_shape, 6, stride=4, padding=2)
    images = torch.from_numpy(scaler.transform(train.images))
    transform = fit_whitening(images, geometry, 48)
    gates = gaussian_gates(GATES, geometry, transform, torch.Generator().manual_seed(0))
    features = GatedFeatures(geometry, transform, gates)
    kind = ProgramKind("relu", "group", "squared")
    solver = ConeColumns(TOLERANCE)

    def measures(stream: ImageStream, optimum: Optimum) -> dict[str, float]:
        scores = held_out_scores(kind, features, stream, optimum)
        labels = torch.from_numpy(stream.labels)
        wrong = (scores - torch.nn.functional.one_hot(labels, 10)).square().sum()
        accuracy = float((scores.argmax(1) == labels).double().mean())
        return {"loss": 0.5 * float(wrong) / len(labels), "accuracy": accuracy}

    start = time.perf_counter()
    fitted, held_out = train.subset(slice(HELD_OUT, None)), train.subset(slice(HELD_OUT))
    at_beta = solver.prepare(kind, features, [fitted])
    optimum, path = None, []
    for beta in BETAS:
        optimum = at_beta(beta, optimum)
        path.append(
            {
                "beta": beta,
                "seconds_so_far": time.perf_counter() - start,
                "relative_gap": optimum.history[-1]["relative_gap"],
                "validation": measures(held_out, optimum),
            }
        )
        print(json.dumps(path[-1]), flush=True)
    beta = max(path, key=lambda point: point["validation"]["accuracy"])["beta"]
    refit = time.perf_counter()
    optimum = solver.prepare(kind, features, [train])(beta, None)
    seconds = {"choice of beta": refit - start, "final optimum": time.perf_counter() - refit}
    patches = PatchBlocks.from_streams(features, [train])
    start = time.perf_counter()
    certificate = certify_cones(
        lambda: (block for _, block in patches),
        patches.targets,
        gates,
        optimum.weights,
        optimum.bias,
        beta=beta,
        loss=kind.loss,
        regulariser=kind.regulariser,
        intercept=kind.intercept,
        multipliers=optimum.multipliers,
    )
    seconds["certificate"] = time.perf_counter() - start
    values = {
        "relative_gap": certificate.relative_gap,
        "violation": certificate.violation,
        "minutes": sum(seconds.values()) / 60,
    }
    return {
        "images": IMAGES,
        "inequalities": 2 * 10 * GATES * IMAGES * geometry.cell_order.numel(),
        "filters": int((optimum.weights.norm(dim=-1) > 0).sum()),
        "beta": beta,
        "path": path,
        "history": optimum.history,
        "certificate": certificate.to_dict(),
        "train": measures(train, optimum),
        "test": measures(test, optimum),
        "targets": [
            {"name": name, "at_most": most, "value": values[name], "reached": values[name] <= most}
            for name, most in TARGETS.items()
        ],
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
