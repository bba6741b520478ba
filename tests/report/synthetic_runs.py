"""Synthetic results, logs and filters with the sizes and shapes of real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Result = dict[str, Any]
WriteRun = Callable[..., Path]


def cifar_description(classes: tuple[str, ...]) -> Result:
    return {
        "name": "cifar10",
        "source": "/data/cifar-10-batches-py",
        "classes": list(classes),
        "image_shape": [3, 32, 32],
        "n_train": 50_000,
        "n_test": 10_000,
        "fingerprint": "9f1ce61ab9b3e1a9a1a7d52d2b3d5a40f1a29e0d2a9f5be2d1f4f1d6e2ff4c11",
    }


CIRCUMSTANCES: Result = {
    "seconds": 6723.4,
    "peak_memory_bytes": 5_123_456_789,
    "versions": {"python": "3.11.9", "convexcnn": "0.1.0", "torch": "2.13.0"},
    "machine": {
        "system": "Linux x86_64",
        "processor": "AMD EPYC 7B13",
        "cores": 2,
        "memory_gb": 15.6,
        "gpu": None,
    },
    "seed": 0,
}


def confusion_counts(classes: int, accuracy: float, per_class: int = 1000) -> list[list[int]]:
    generator = np.random.default_rng(classes)
    rows = []
    for i in range(classes):
        own = float(np.clip(accuracy + generator.normal(0, 0.1), 0.05, 0.95))
        others = generator.dirichlet(np.full(classes - 1, 0.6)) * (1 - own)
        shares = np.insert(others, i, own)
        rows.append(generator.multinomial(per_class, shares).tolist())
    return rows


def gabor_filters(count: int, channels: int, size: int, seed: int) -> NDArray[np.float32]:
    """Oriented, coloured waves, as first blocks learn them."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    angle, frequency, phase = (
        generator.uniform(0, high, (count, 1, 1)) for high in (np.pi, 1.6, 2 * np.pi)
    )
    wave = np.cos(frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    colour = generator.normal(0.6, 0.6, (count, channels, 1, 1))
    noise = generator.normal(0, 0.12, (count, channels, size, size))
    return (colour * wave[:, None] + noise).astype(np.float32)


def fit_result(classes: tuple[str, ...] = CIFAR_CLASSES) -> Result:
    betas = np.logspace(-6, 0, 13)
    path = [
        {
            "beta": float(beta),
            "train": {"loss": 0.2, "accuracy": float(0.86 - 0.0025 * i**2)},
            "validation": {"loss": 0.25, "accuracy": float(0.735 - 0.004 * (i - 5) ** 2)},
        }
        for i, beta in enumerate(betas)
    ]
    scores = {"train": {"loss": 0.1893, "accuracy": 0.8123}}
    scores["test"] = {"loss": 0.2312, "accuracy": 0.7456}
    block = {
        **scores,
        "certificate": {
            "program": "gated, squared loss, l2",
            "scope": "optimal among networks with these 48 gates",
            "primal": 0.2101234567891,
            "dual": 0.2101234000001,
            "gap": 5.7e-8,
            "relative_gap": 2.71e-7,
            "dtype": "float64",
        },
        "gates": 48,
        "neurons": 480,
        "beta": float(betas[5]),
        "seconds": 402.2,
        "path": path,
    }
    return {
        "format": 1,
        "kind": "fit",
        "data": cifar_description(classes),
        "model": "two-layer",
        "formulation": "gated",
        "blocks": [block],
        **scores,
        "confusion": confusion_counts(len(classes), 0.74),
        "settings": {"filter_size": 6, "stride": 2, "pooling": 2, "loss": "squared"},
        "phases": {"gates": 131.0, "statistics": 243.5, "factorisation": 21.4, "path": 6.3},
        **CIRCUMSTANCES,
        "seconds": 431.9,
    }


def stack_result(blocks: int = 2) -> Result:
    """A fit of several blocks, as the command writes it; with two the second weighs more."""
    result = fit_result()
    entries = []
    for number in range(blocks):
        last = number == blocks - 1
        scores = {"loss": 0.3, "accuracy": 0.74 if last else 0.7}
        weight = 0.75 if last else 0.25 / (blocks - 1)
        own = {"validation": scores, "stack": scores, "test": scores, "head_weight": weight}
        entries.append({**result["blocks"][0], "gates": 48 - 12 * number, **own})
    phases = {f"block {i}: {name}": 10.0 * i for i in (1, 2) for name in ("gates", "path")}
    return result | {"model": "layerwise", "blocks": entries, "phases": phases}


def examples(
    count: int = 6, shape: tuple[int, ...] = (3, 32, 32), blocks: int = 0
) -> dict[str, Any]:
    """Explained test images; of a stack with the heads of its blocks."""
    rng = np.random.default_rng(0)

    def maps(*leading: int) -> NDArray[np.float32]:
        return rng.normal(size=(count, *leading, *shape[1:])).astype(np.float32)

    predicted = np.arange(count) % 10
    heads = {
        "blocks": maps(blocks),
        "block_scores": rng.normal(size=(count, blocks, 10)).astype(np.float32),
    }
    return {
        "images": rng.integers(0, 256, (count, *shape), np.uint8),
        "index": 10 * np.arange(count),
        "labels": np.where(np.arange(count) < 4, predicted, 9),
        "predicted": predicted,
        "scores": (np.eye(10)[predicted] + np.linspace(0, 0.5, 10)).astype(np.float32),
        "columns": np.arange(10),
        **{name: maps() for name in ("contributions", "occlusion", "gradcam", "gradient")},
        "top": maps(3),
        **(heads if blocks else {}),
    }


def maximisers(
    blocks: int = 1, classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), starts: int = 2
) -> dict[str, Any]:
    """What every block likes best; filters from the second block on."""
    rng = np.random.default_rng(1)
    found: dict[str, Any] = {}
    for number in range(1, blocks + 1):
        m = 0 if number == 1 else 2
        box = np.array([0, 1, shape[1] // 2, shape[2]])
        parts = {
            "class_images": rng.integers(0, 256, (classes, *shape), np.uint8),
            "class_values": number + np.arange(starts) + rng.random((classes, starts)),
            "filter_images": rng.integers(0, 256, (classes, m, *shape), np.uint8),
            "filter_values": 40 + 10 * rng.random((classes, m, starts)),
            "filter_gates": rng.integers(0, 8, (classes, m)),
            "filter_boxes": np.tile(box, (classes, m, 1)),
            "seconds": np.array([1.5]),
        }
        found |= {f"block{number}.{name}": values for name, values in parts.items()}
    return {
        name: values.astype(np.float32) if values.dtype == float else values
        for name, values in found.items()
    }


PAPER = {
    "gated": {"train_loss": 0.3469, "train_accuracy": 0.520, "test_accuracy": 0.5036},
    "non-convex": {"train_loss": 0.3735, "train_accuracy": 0.478, "test_accuracy": 0.4474},
}
FINAL = {
    "gated": {"train_loss": 0.3401, "train_accuracy": 0.5331, "test_accuracy": 0.5112},
    "non-convex": {"train_loss": 0.3722, "train_accuracy": 0.4803, "test_accuracy": 0.4521},
}


def compare_result(seeds: int = 3, classes: tuple[str, ...] = CIFAR_CLASSES) -> Result:
    runs, summary = [], {}
    for formulation, final in FINAL.items():
        first = 145 if formulation == "gated" else 1523
        runs += [
            {
                "formulation": formulation,
                "seed": seed,
                "train": {"loss": final["train_loss"], "accuracy": final["train_accuracy"]},
                "test": {"loss": 0.36, "accuracy": final["test_accuracy"]},
                "seconds": 1100.0 + seed,
                "steps": 5000,
                "steps_to_accuracy": {"0.4": first + 3 * seed},
            }
            for seed in range(seeds)
        ]
        spread = {key: {"mean": mean, "std": 0.0008} for key, mean in final.items()}
        summary[formulation] = spread | {"test_loss": {"mean": 0.3612, "std": 0.0011}}
    summary["non-convex"]["test_loss"]["mean"] = 0.3807
    return {
        "format": 1,
        "kind": "compare",
        "data": cifar_description(classes),
        "settings": {"filters": 1024, "filter_size": 6, "stride": 4, "learning_rate": 1e-4},
        "runs": runs,
        "summary": summary,
        "paper": PAPER,
        "confusion": {
            "gated": confusion_counts(len(classes), 0.51),
            "non-convex": confusion_counts(len(classes), 0.45),
        },
        **CIRCUMSTANCES,
    }


def compare_metrics(seeds: int = 3, steps: int = 5000, every: int = 10) -> list[Result]:
    """Saturating curves with the noise of mini-batches."""
    generator = np.random.default_rng(1)
    lines = []
    for formulation, final in FINAL.items():
        half = 60.0 if formulation == "gated" else 450.0
        for seed in range(seeds):
            for step in range(every, steps + 1, every):
                progress = 1 - 1 / (1 + step / half)
                noise = generator.normal(0, 0.004)
                accuracy = 0.1 + (final["train_accuracy"] + 0.01 - 0.1) * progress + noise
                loss = 0.5 - (0.5 - final["train_loss"]) * progress - noise / 3
                lines.append(
                    {
                        "formulation": formulation,
                        "seed": seed,
                        "step": step,
                        "epoch": step / 50,
                        "seconds": step * 0.2,
                        "train_loss": float(loss),
                        "train_accuracy": float(accuracy),
                    }
                )
    return lines


def run_filters(classes: int, convex: int = 64, non_convex: int = 1024) -> dict[str, Any]:
    generator = np.random.default_rng(2)
    strength = -np.sort(-generator.gamma(1.5, 1.0, (classes, convex)), axis=1)
    of_class = [gabor_filters(convex, 3, 6, seed) for seed in range(classes)]
    return {
        "convex": np.stack(of_class),
        "convex_strength": strength.astype(np.float32),
        "non_convex": gabor_filters(non_convex, 3, 6, 99),
        "non_convex_strength": generator.gamma(2.0, 1.0, non_convex).astype(np.float32),
    }


def write_run_folder(
    folder: Path,
    result: Result,
    metrics: list[Result] | None = None,
    filters: dict[str, Any] | None = None,
    config: str = "# convexcnn fit cifar10 --out runs/a --seed 0\nseed = 0\nlimit = 50000\n",
) -> Path:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "config.toml").write_text(config, encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in metrics or [])
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    if filters is not None:
        save_file(filters, folder / "filters.safetensors")
    return folder
