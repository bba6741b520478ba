"""Train an estimator and write its run: what `fit` and `demo` share."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from convexcnn.callbacks import together
from convexcnn.cli.baseline_training import (
    PARTS,
    read_baselines,
    show_baselines,
    train_baselines,
)
from convexcnn.cli.certify import show_proof_words
from convexcnn.cli.console import Callback, Console, duration, percent
from convexcnn.cli.extension import check_extension, check_same_data, trained_stack
from convexcnn.cli.left_out import note_left_out
from convexcnn.cli.outputs import check_folder, folders_read
from convexcnn.cli.run_folder import RunFolder
from convexcnn.cli.stack_training import CHECKPOINT, show_blocks, train_stack
from convexcnn.errors import ConvexcnnError

if TYPE_CHECKING:
    from convexcnn.data import ImageDataset
    from convexcnn.models import ConvexConvClassifier, NonConvexConvClassifier

Result = dict[str, Any]
T = TypeVar("T")

FILTERS_FILE = "filters.safetensors"
EXPLANATIONS_FILE = "explanations.safetensors"


def fit_run(
    data: str,
    out: Path,
    settings: Mapping[str, Any],
    *,
    console: Console,
    root: Path | None = None,
    download: bool = False,
    overwrite: bool = False,
    certificate: bool = True,
    loggers: Callable[[], Sequence[Callback]] = tuple,
) -> Result:
    """Read data, train, and write the run with its report.

    Nothing is left if that fails; of a stack, its finished blocks are. Of the processes of a job,
    all train and the first one writes.

    Args:
        data: name or path of the data set.
        out: the run folder.
        settings: `model`, `formulation`, `baselines`, `extend`, `seed`, `limit`, `image_size`,
            `skip_bad` and parameters of the estimator; what is left out keeps its default.
        console: where progress and the summary go.
        root: folder of official files.
        download: fetch official files that are missing.
        overwrite: replace an existing run.
        certificate: bound the distance from the optimum, where the program has such a bound.
        loggers: makes what is called with every event of the training, once settings and RUN are
            sound.

    Returns:
        What was printed with `--json`; nothing in the other processes of a job.

    Raises:
        ConvexcnnError: bad settings, bad data, or a run folder that is taken.
    """
    from convexcnn.cli.settings import make_estimator, settings_of
    from convexcnn.distributed import apart, current
    from convexcnn.environment import MemoryWatch
    from convexcnn.models import LayerwiseConvexCNN

    extends = "extend" in settings
    if extends:
        check_extension(settings, out)
    estimator = make_estimator(settings)
    seed = int(settings.get("seed", 0))
    reading = {key: settings.get(key) for key in ("image_size", "limit", "skip_bad")}
    kind = {
        "model": settings.get("model", "two-layer"),
        "formulation": settings.get("formulation", "gated"),
    }
    baselines = read_baselines(settings)
    everything = {**kind, **settings_of(estimator), **reading, "seed": seed}
    everything |= {"baselines": list(baselines)} if baselines else {}
    everything |= {"extend": settings["extend"]} if extends else {}
    stacked = isinstance(estimator, LayerwiseConvexCNN)
    run = RunFolder(out, everything, header=command_line(), overwrite=overwrite, resumable=stacked)
    processes = current()
    if processes.writes:
        check_folder(out, "--out", folders_read(data))
        run.check()
    logs = loggers()
    memory_gb = settings.get("memory_gb")
    dataset = _load(data, root, download, seed, {**reading, "memory_gb": memory_gb})
    if processes.size > 1:
        processes.require_same(dataset.whole_fingerprint(), f"data in {data}")
    if isinstance(estimator, LayerwiseConvexCNN) and extends:
        estimator = trained_stack(settings, estimator)
        check_same_data(estimator, dataset, settings)
    if not processes.writes:
        work = train_stack if isinstance(estimator, LayerwiseConvexCNN) else train
        work(estimator, dataset, run.folder, together(), certificate=certificate)
        return {}
    note_left_out(dataset, console)
    with run, MemoryWatch() as watch:
        if run.resumed:
            console.note(f"Continuing the unfinished run in {run.folder}")
        if run.given_more:  # networks beside the stack have as many minutes
            shutil.rmtree(run.folder / PARTS, ignore_errors=True)
        with console.progress() as show:
            callback = together(run.log, show, *logs)
            where = dataset, run.folder, callback
            if isinstance(estimator, LayerwiseConvexCNN):
                result = train_stack(estimator, *where, certificate=certificate)
            else:
                result = train(estimator, *where, certificate=certificate)
            environment = environment_of_result()
            memory = {"budget": _budget_bytes(settings), **watch.peaks()}
            with apart():
                found = train_baselines(
                    baselines, dataset, everything, run.folder, callback, console.note
                )
        result |= {"baselines": found, "settings": {"data": data, **everything}, "seed": seed}
        run.write_result(result | environment | {"memory_bytes": memory})
        report = build_report_or_warn(run.folder, out, console)
    for part in (CHECKPOINT, PARTS):  # only now: until the run is whole they may be needed
        shutil.rmtree(out / part, ignore_errors=True)
    summarise(result, out, console, memory, report)
    printed = {"run": str(out), "report": report and str(report), **result}
    console.result(printed)
    return printed


def train(
    estimator: ConvexConvClassifier | NonConvexConvClassifier,
    dataset: ImageDataset,
    folder: Path,
    callback: Callback,
    *,
    certificate: bool,
) -> Result:
    """Fit, measure and certify an estimator, and write model, filters and explanations.

    Args:
        estimator: not trained yet.
        dataset: what to train on, and to test on if there are test images.
        folder: of the run, which only the first process of a job writes into.
        callback: called with every event.
        certificate: bound the distance from the optimum, where the program has such a bound.

    Returns:
        `result.json` without settings and environment; nothing in the other processes.
    """
    from convexcnn.distributed import current
    from convexcnn.explain.gallery import explain_run
    from convexcnn.models import ConvexConvClassifier, save_model
    from convexcnn.models.evaluation import evaluate_model
    from convexcnn.models.io import write_filters
    from convexcnn.models.proof import NETWORK_WORK, prove
    from convexcnn.models.whole_files import write_arrays

    start = time.perf_counter()
    estimator.set_params(callback=callback)
    estimator.fit(dataset.train.images, dataset.train.labels)
    estimator.set_params(callback=None)
    estimator.class_names = dataset.classes
    estimator.fingerprint_ = dataset.fingerprint()
    convex = isinstance(estimator, ConvexConvClassifier)
    phases = (
        dict(estimator.solution_.seconds)
        if convex
        else {estimator.descent().method: estimator.seconds_}
    )

    def timed(phase: str, work: Callable[[], T]) -> T:
        before = time.perf_counter()
        value = work()
        phases[phase] = time.perf_counter() - before
        callback({"phase": phase, "step": 1, "seconds": time.perf_counter() - start})
        return value

    k, all_ = len(dataset.classes), current()
    on_train = timed("training images", lambda: evaluate_model(estimator, dataset.train, k, all_))
    on_test = None
    if (test := dataset.test) is not None:
        on_test = timed("test images", lambda: evaluate_model(estimator, test, k, all_))
    proof: Result = dict.fromkeys(("certificate", "further_neuron", "relu_network"))
    if certificate and convex and _can_be_certified(estimator):
        split, others = dataset.train, None if test is None else test.images
        proof = prove(estimator, split.images, split.labels, others, timed, NETWORK_WORK).to_dict()
    if not all_.writes:
        return {}
    save_model(estimator, folder)
    write_filters(folder / FILTERS_FILE, estimator)
    if test is not None:
        found = timed("explanations", lambda: explain_run(estimator, test))
        write_arrays(folder / EXPLANATIONS_FILE, found)
    scores = {
        "train": on_train.summary(),
        "test": None if on_test is None else on_test.summary(),
    }
    return {
        "format": 1,
        "kind": "fit",
        "data": dataset.describe(),
        "model": "two-layer",
        "formulation": estimator.formulation if convex else "non-convex",
        "blocks": [
            {
                **scores,
                **proof,
                **_size(estimator),
                "beta": estimator.beta_,
                "regulariser": estimator.regulariser if convex else "l2",
                "loss": estimator.loss,
                "solver": _solver(estimator) if convex else None,
                "seconds": estimator.seconds_,
                "path": estimator.path_ if convex else [],
            }
        ],
        **scores,
        "confusion": None if on_test is None else on_test.confusion.tolist(),
        "seconds": time.perf_counter() - start,
        "phases": phases,
    }


def environment_of_result() -> Result:
    """Return versions, machine and peak memory, as `result.json` holds them."""
    from convexcnn.environment import machine, peak_memory_bytes, versions

    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
        "machine": machine(),
    }


def show_memory(memory: Mapping[str, int | None], console: Console) -> None:
    """Print the peak of the memory, beside the budget if there was one."""
    peak, budget = memory["resident"], memory["budget"]
    assert peak is not None
    if budget is None:
        console.show(f"Memory: {peak / 1e9:.2f} GB at most")
        return
    console.show(f"Memory: {peak / 1e9:.2f} GB at most, of {budget / 1e9:g} GB")
    if peak > budget:
        console.note("Warning: training took more memory than --memory-gb; please report this.")


def _budget_bytes(settings: Mapping[str, Any]) -> int | None:
    budget = settings.get("memory_gb")
    return None if budget is None else int(1e9 * budget)


def build_report_or_warn(folder: Path, out: Path, console: Console) -> Path | None:
    """Build the report, and return where it will be; without one, the model is worth keeping."""
    from convexcnn.report import build_report

    try:
        build_report(folder)
    except ConvexcnnError as error:
        console.note(f"Warning: the report could not be built ({error}).")
        console.note(f"The run is complete without it; try again: convexcnn report {out}")
        return None
    return out / "report.html"


def summarise(
    result: Result,
    out: Path,
    console: Console,
    memory: Mapping[str, int | None],
    report: Path | None,
) -> None:
    """Print accuracy, certificate, time, memory and where the report is, if there is one."""
    rows = [
        [name, percent(result[key]["accuracy"]), f"{result[key]['loss']:.4f}"]
        for name, key in (("training images", "train"), ("test images", "test"))
        if result[key] is not None
    ]
    console.table([result["data"]["name"], "accuracy", "loss"], rows)
    if result["model"] == "layerwise":
        show_blocks(result["blocks"], console)
        show_baselines(result, console)
    else:
        _show_block(result, out, console)
    console.show(f"Time: {duration(result['seconds'])}")
    show_memory(memory, console)
    if report is not None:
        console.show(f"Report: {report}")


def _show_block(result: Result, out: Path, console: Console) -> None:
    """Print which solver a two-layer model was trained by, and its proof."""
    block = result["blocks"][0]
    solver = block["solver"]
    if solver is not None:
        reason = f": {solver['reason']}" if solver["reason"] else ""
        console.show(f"Solver: {solver['name']}{reason}")
        if solver["advice"] and solver["status"] != "descended":
            console.note(f"Warning: the solver stopped before the tolerance; {solver['advice']}.")
    show_proof_words(block, console)
    if block["certificate"] is not None and block["relu_network"] is None:
        data = shlex.quote(result["settings"]["data"])
        console.show(
            f"ReLU network: left out, it takes minutes; convexcnn certify {out} {data} finds it"
        )


def command_line() -> str:
    """Return the command that is running, as it could be typed again."""
    return shlex.join(["convexcnn", *sys.argv[1:]])


def _load(
    data: str, root: Path | None, download: bool, seed: int, reading: Mapping[str, Any]
) -> ImageDataset:
    """Read the data; of a job, one process of every machine fetches what is missing."""
    from convexcnn.data import load_dataset
    from convexcnn.distributed import one_goes_first

    with one_goes_first() if download else nullcontext():
        return load_dataset(
            data,
            root=root,
            download=download,
            skip_bad=bool(reading["skip_bad"]),
            image_size=reading["image_size"],
            limit=reading["limit"],
            seed=seed,
            memory_gb=reading["memory_gb"],
        )


def _can_be_certified(estimator: ConvexConvClassifier) -> bool:
    return estimator.formulation != "relu-penalised" and estimator.beta_ > 0


def _size(estimator: ConvexConvClassifier | NonConvexConvClassifier) -> dict[str, int | None]:
    """Number of gates, and of neurons."""
    if not hasattr(estimator, "gates_"):
        return {"gates": None, "neurons": len(estimator.filters_)}
    return {"gates": len(estimator.gates_), "neurons": estimator.n_neurons()}


def _solver(estimator: ConvexConvClassifier) -> dict[str, str | float | None]:
    """Which solver it was, why, and how it ended."""
    solution = estimator.solution_
    advice = "" if solution.status.name == "OPTIMAL" else solution.status.value
    if solution.status.name == "DESCENDED" and _can_be_certified(estimator):
        advice += ": convexcnn certify says how far it got"
    return {
        "name": solution.solver,
        "reason": solution.reason,
        "status": solution.status.name.lower().replace("_", " "),
        "advice": advice,
        "relative_gap": solution.relative_gap,
    }
