"""One process of a job, or a single one: trains small models and writes what came out as JSON.

python job_worker.py OUT CASE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from convexcnn.distributed import job
from convexcnn.models import Block, ConvexConvClassifier
from convexcnn.solvers.fista import Fista
from small import stripes
from tiny_models import convex, layerwise, non_convex

IMAGES, LABELS = stripes(83)
"""Not divisible by 2 or 4."""

TIGHT = {"tolerance": 1e-6, "betas": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "direct, path": {"solver": "direct"},
    "cg, path": {"solver": "cg"},
    "learned gates": {"solver": "direct", "gates": "sgd", "betas": 0.01},
    "shifted views": {"solver": "direct", "augment": "flip+crop", "betas": 0.01},
    "weights": {"solver": "direct", "class_weight": "balanced"},
    "weights, cg": {"solver": "cg", "class_weight": {0: 1, 1: 2, 2: 0.5}},
    "lbfgs": {"solver": "lbfgs", "loss": "cross_entropy", **TIGHT},
    "lbfgs, path": {"solver": "lbfgs", "loss": "cross_entropy", "tolerance": 1e-7},
    "fista, group": {"solver": "fista", "regulariser": "group", **TIGHT},
    "fista, nuclear": {"solver": "fista", "regulariser": "nuclear", **TIGHT},
    "fista, cross-entropy": {"solver": "fista", "loss": "cross_entropy", **TIGHT},
    "fista, stream": {"solver": Fista(1e-6, memory_gb=1e-6), "regulariser": "group", "betas": 0.01},
    "column generation": {"solver": "fista", "regulariser": "group", "gates": "dual", **TIGHT},
    "sgd": {"solver": "sgd", "betas": 0.01},
}
"""Settings of classifiers, by name."""


ON_NEURONS = [Block(stride=2, n_gates=6, gates="patches"), Block(n_gates=8, gates="patches")]
STACKS: dict[str, dict[str, Any]] = {
    "stack on patches": {},
    "stack on neurons": {"blocks": ON_NEURONS, "augment": "flip+crop"},
    "stack without views": {"blocks": ON_NEURONS, "augment": "none"},
}
"""Settings of stacks whose neurons are not learned: descent would amplify rounding."""


def outcome(name: str) -> Any:
    """Train a case, and measure what has to be the same for any number of processes."""
    if name in STACKS:
        stack = layerwise(**STACKS[name]).fit(IMAGES, LABELS)
        return [
            {
                "primal": block.certificate.primal,
                "dual": block.certificate.dual,
                "beta": block.beta,
                "accuracy": block.measures["validation"]["accuracy"],
            }
            for block in stack.blocks_
        ]
    if name == "non-convex":
        model = non_convex().fit(IMAGES, LABELS)
        return {"filters": model.filters_.double().norm().item(), "temperature": model.temperature_}
    model: ConvexConvClassifier = convex(**CASES[name]).fit(IMAGES, LABELS)
    certificate = model.certify(IMAGES, LABELS)
    return {
        "primal": certificate.primal,
        "dual": certificate.dual,
        "beta": model.beta_,
        "slope": model.further_neuron(IMAGES, LABELS).slope,
        "temperature": model.temperature_,
        "solver": model.solution_.solver,
        "accuracies": [point["validation"].get("accuracy") for point in model.path_],
    }


def main() -> None:
    out, names = Path(sys.argv[1]), sys.argv[2:]
    with job() as processes:
        found = {name: outcome(name) for name in names}
    if processes.writes:
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
