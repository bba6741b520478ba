"""Train a stack of blocks and measure every one of them: `fit --model layerwise`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexcnn.cli.console import Callback, Console, percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convexcnn.data import ImageDataset, ImageSplit
    from convexcnn.distributed import Processes
    from convexcnn.models import LayerwiseConvexCNN
    from convexcnn.models.evaluation import Evaluation
    from convexcnn.models.trained_block import TrainedBlock

Result = dict[str, Any]

CHECKPOINT = "blocks"
"""Folder of finished blocks inside an unfinished run."""


def train_stack(
    estimator: LayerwiseConvexCNN,
    dataset: ImageDataset,
    folder: Path,
    callback: Callback,
    *,
    certificate: bool,
) -> Result:
    """Fit, certify and measure a stack, and write model, filters of its first block, explanations.

    Blocks that an interrupted run has finished are taken from its folder, and stay there.

    Args:
        estimator: not trained yet; or one that `fit` adds blocks to.
        dataset: what to train on, and to test on if there are test images.
        folder: of the run, which only the first process of a job writes into.
        callback: called with every event.
        certificate: whether every block is certified.

    Returns:
        `result.json` without settings and environment; nothing in the other processes.
    """
    from convexcnn.cli.training import EXPLANATIONS_FILE, FILTERS_FILE
    from convexcnn.distributed import current
    from convexcnn.explain.gallery import explain_run
    from convexcnn.models import save_model
    from convexcnn.models.io import write_filters
    from convexcnn.models.time_plan import PROBES
    from convexcnn.models.whole_files import write_arrays

    start = time.perf_counter()

    def progress(done: int, of: int) -> None:
        spent = time.perf_counter() - start
        callback({"phase": "explanations", "step": done, "steps": of, "seconds": spent})

    checkpoint = folder / CHECKPOINT
    estimator.set_params(callback=callback, certificates=certificate, checkpoint=checkpoint)
    estimator.fit(dataset.train.images, dataset.train.labels)
    estimator.set_params(callback=None, checkpoint=None, warm_start=False)
    estimator.trained_parameters_ |= {"warm_start": False}
    estimator.class_names = dataset.classes
    estimator.fingerprint_ = dataset.fingerprint()
    phases = {} if estimator.budget is None else {PROBES: estimator.probing_seconds_}
    phases |= {
        f"block {number}: {name}": seconds
        for number, block in enumerate(estimator.blocks_, 1)
        for name, seconds in block.seconds.items()
    }
    k, measured = len(dataset.classes), {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if split is not None:
            before = time.perf_counter()
            heads = (
                estimator.training_scores_
                if name == "train"
                else _block_scores(estimator, split, current())
            )
            measured[name] = _evaluate(estimator, heads, split, k)
            phase = "training images" if name == "train" else "test images"
            phases[phase] = time.perf_counter() - before
            callback({"phase": phase, "step": 1, "seconds": time.perf_counter() - start})
    if not current().writes:
        return {}
    save_model(estimator, folder)
    write_filters(folder / FILTERS_FILE, estimator)
    if dataset.test is not None:
        before = time.perf_counter()
        write_arrays(folder / EXPLANATIONS_FILE, explain_run(estimator, dataset.test, progress))
        phases["explanations"] = time.perf_counter() - before
    whole = {name: found[-1] for name, found in measured.items()}
    return {
        "format": 1,
        "kind": "fit",
        "data": dataset.describe(),
        "model": "layerwise",
        "formulation": "gated",
        "blocks": [
            {
                "train": measured["train"][number].summary(),
                "test": measured["test"][number].summary() if "test" in measured else None,
                **_block_entry(block, float(weight)),
            }
            for number, (block, weight) in enumerate(
                zip(estimator.blocks_, estimator.head_weights_, strict=True)
            )
        ],
        "train": whole["train"].summary(),
        "test": whole["test"].summary() if "test" in whole else None,
        "confusion": whole["test"].confusion.tolist() if "test" in whole else None,
        "seconds": sum(phases.values()),
        "phases": phases,
    }


def show_blocks(blocks: Sequence[Result], console: Console) -> None:
    """Print a line per block of a stack: what its head does, and what all heads so far do."""
    columns = ["block", "training images", "validation", "test images", "heads so far", "weight"]
    rows = [
        [
            f"{number} (kept)" if block["kept"] else str(number),
            percent(block["train"]["accuracy"]),
            percent(block["validation"]["accuracy"]),
            percent(block["test"]["accuracy"] if block["test"] else None),
            percent(block["stack"]["accuracy"]),
            f"{block['head_weight']:.2f}",
        ]
        for number, block in enumerate(blocks, 1)
    ]
    console.table(columns, rows)
    for number, block in enumerate(blocks, 1):
        if block["certificate"] is not None:
            gap, scope = block["certificate"]["relative_gap"], block["certificate"]["scope"]
            bound = "no useful bound" if gap is None else f"to {gap:.1e}"
            console.show(f"Certificate of block {number}: {scope}, {bound}")
        if block["solver"]["advice"]:
            advice = block["solver"]["advice"]
            console.note(f"Warning: block {number} stopped before the tolerance; {advice}.")


def _block_scores(
    estimator: LayerwiseConvexCNN, split: ImageSplit, processes: Processes
) -> NDArray[np.float32]:
    """Every head's scores (B, n, k), which processes share."""
    import torch

    from convexcnn.data.rows import take_rows

    own = processes.share(len(split))
    found = estimator.block_scores(take_rows(split.images, own))
    scores = torch.from_numpy(found).transpose(0, 1)
    whole: NDArray[np.float32] = processes.gather(scores, len(split), own).transpose(0, 1).numpy()
    return whole


def _evaluate(
    estimator: LayerwiseConvexCNN, heads: NDArray[np.float32], split: ImageSplit, k: int
) -> list[Evaluation]:
    """Every head's scores (B, n, k), and last the whole model's, against the labels."""
    import numpy as np

    from convexcnn.models.evaluation import evaluate_scores

    together = np.tensordot(estimator.head_weights_.numpy(), heads, 1).astype(np.float32)
    losses = *(block.settings.loss for block in estimator.blocks_), None
    return [
        evaluate_scores(estimator, scores, split.labels, k, loss)
        for scores, loss in zip((*heads, together), losses, strict=True)
    ]


def _block_entry(block: TrainedBlock, weight: float) -> Result:
    """What `result.json` holds of a block beside its scores."""
    return {
        "validation": block.measures["validation"],
        "stack": block.measures["stack"],
        "head_weight": weight,
        "certificate": None if block.certificate is None else block.certificate.to_dict(),
        "gates": block.n_gates,
        "neurons": block.n_neurons,
        "beta": block.beta,
        "strategy": block.settings.gates,
        "head": block.settings.head,
        "descent": block.measures.get("descent"),
        "regulariser": block.settings.regulariser,
        "loss": block.settings.loss,
        "solver": block.solver,
        "seconds": sum(block.seconds.values()),
        "kept": block.kept,
        "path": list(block.path),
    }
