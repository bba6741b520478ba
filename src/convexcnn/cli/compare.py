"""`convexcnn compare`: the paper protocol, convex and non-convex side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from convexcnn.cli.console import Console, duration, percent
from convexcnn.cli.options import (
    FOLDER,
    LARGEST_SEED,
    data_options,
    limit_option,
    output_options,
    run_options,
    seed_option,
)

POSITIVE = click.IntRange(min=1)
MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@click.command(name="compare", short_help="Train both formulations as the paper did, side by side.")
@click.argument("data")
@click.option("--out", type=FOLDER, required=True, metavar="RUN", help="Folder of the new run.")
@data_options
@limit_option
@click.option("--seeds", type=POSITIVE, default=3, show_default=True, help="Number of seeds.")
@seed_option
@click.option("--epochs", type=POSITIVE, default=100, show_default=True, help="Passes over DATA.")
@click.option(
    "--batch-size", type=POSITIVE, default=1000, show_default=True, help="Images per step."
)
@click.option(
    "--filters",
    type=POSITIVE,
    default=1024,
    show_default=True,
    help="Filters of the non-convex network, and gates of the convex program.",
)
@click.option(
    "--filter-size",
    type=POSITIVE,
    default=6,
    show_default=True,
    metavar="PIXELS",
    help="Height and width of a filter.",
)
@click.option(
    "--stride",
    type=POSITIVE,
    default=4,
    show_default=True,
    metavar="PIXELS",
    help="Pixels from one patch to the next.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-4,
    show_default=True,
    help="The paper's step length; `result.json` says by what `loss_scale` it is multiplied.",
)
@click.option(
    "--momentum",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.9,
    show_default=True,
    help="Momentum of SGD.",
)
@run_options
@output_options
def command(
    data: str,
    *,
    out: Path,
    seed: int,
    seeds: int,
    overwrite: bool,
    as_json: bool,
    device: str | None,
    root: Path | None,
    download: bool,
    skip_bad: bool,
    image_size: int | None,
    limit: int | None,
    **protocol: Any,
) -> None:
    """Train the convex and the non-convex network on DATA by the same SGD, and write RUN.

    DATA is a name ('convexcnn data list' shows them), a folder of class folders, of tar shards or
    of images.npy and labels.npy, a .csv of labels, or an .npz file.
    The defaults are the paper's protocol; RUN/report.html shows its table and figures beside
    ours. Afterwards RUN holds the result, both models of the first seed and the curves.

    Interrupted, what is finished is kept in RUN.partial, and the same command continues.
    """
    from convexcnn.cli.left_out import note_left_out
    from convexcnn.cli.outputs import check_folder, folders_read
    from convexcnn.cli.run_folder import RunFolder
    from convexcnn.cli.training import build_report_or_warn, command_line, environment_of_result
    from convexcnn.data import load_dataset

    if seed + seeds - 1 > LARGEST_SEED:
        raise click.UsageError(
            f"--seeds {seeds} counted from --seed {seed} end at {seed + seeds - 1}; the largest "
            f"seed is {LARGEST_SEED}"
        )
    console = Console(as_json=as_json)
    settings = {
        "data": data,
        "image_size": image_size,
        "limit": limit,
        "skip_bad": skip_bad,
        "seeds": seeds,
        "seed": seed,
        "device": device or "auto",
        **protocol,
    }
    run = RunFolder(out, settings, header=command_line(), overwrite=overwrite, resumable=True)
    check_folder(out, "--out", folders_read(data))
    run.check()
    from convexcnn.models.paper import protocol_solver, run_paper_protocol

    sgd = ("epochs", "batch_size", "learning_rate", "momentum")
    protocol_solver(**{name: protocol[name] for name in sgd})
    dataset = load_dataset(
        data,
        root=root,
        download=download,
        skip_bad=skip_bad,
        image_size=image_size,
        limit=limit,
        seed=seed,
    )
    note_left_out(dataset, console)
    with run, console.progress() as callback:
        if run.resumed:
            console.note(f"Continuing the unfinished run in {run.folder}")
        result = run_paper_protocol(
            dataset,
            seeds=range(seed, seed + seeds),
            device=device or "auto",
            folder=run.folder,
            callback=callback,
            **protocol,
        )
        result |= {"settings": settings, "seed": seed, **environment_of_result()}
        peaks = (unit.get("peak_memory_bytes", 0) for unit in result["runs"])
        result["peak_memory_bytes"] = max(result["peak_memory_bytes"], *peaks)
        run.write_result(result)
        report = build_report_or_warn(run.folder, out, console)
    _show(result, report, console)
    console.result({"run": str(out), "report": report and str(report), **result})


def _show(result: dict[str, Any], report: Path | None, console: Console) -> None:
    rows = []
    several = len({run["seed"] for run in result["runs"]}) > 1
    for formulation, summary in result["summary"].items():
        rows.append([formulation, *(_cell(summary, measure, several) for measure in MEASURES)])
        if formulation in result["paper"]:
            paper = result["paper"][formulation]
            rows.append(["  in the paper", *(_paper_cell(paper, m) for m in MEASURES)])
    console.table(["", *(measure.replace("_", " ") for measure in MEASURES)], rows)
    console.show(f"Time: {duration(result['seconds'])}")
    if report is not None:
        console.show(f"Report: {report}")


def _cell(summary: dict[str, Any], measure: str, several: bool) -> str:
    value = summary.get(measure)
    if not value or value["mean"] is None:
        return "-"
    if measure.endswith("accuracy"):
        return percent(value["mean"]) + (f" ± {100 * value['std']:.1f}" if several else "")
    return f"{value['mean']:.4f}" + (f" ± {value['std']:.4f}" if several else "")


def _paper_cell(paper: dict[str, float], measure: str) -> str:
    if measure not in paper:
        return "-"
    return percent(paper[measure]) if measure.endswith("accuracy") else f"{paper[measure]:.4f}"
