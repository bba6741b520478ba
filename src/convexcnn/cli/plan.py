"""`convexcnn plan`: what a training would take, before it is begun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convexcnn.cli.console import Console, duration
from convexcnn.cli.fit import command as fit
from convexcnn.cli.options import FILE, limit_option, output_options

if TYPE_CHECKING:
    from convexcnn.costs.plan import Plan
    from convexcnn.costs.work import Hardware
    from convexcnn.data.survey import DataSurvey

POSITIVE = click.IntRange(min=1, max=10**12)
RATE = click.FloatRange(min=1e-6, max=1e9)
MOST_NUMBERS = 10**12
"""How many numbers an image may have for its size to be of any meaning."""

NOT_PLANNED = (
    "out",
    "overwrite",
    "resume",
    "extend",
    "log_jsonl",
    "tensorboard",
    "root",
    "download",
    "skip_bad",
)
"""Parameters of `fit` that say where things lie, which no cost depends on."""


def read_shape(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int, int] | None:
    """Channels, height and width with commas between them.

    Raises:
        BadParameter: anything else.
    """
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(
            f"{value!r} is no shape; give channels,height,width such as 3,224,224"
        )
    channels, height, width = map(int, parts)
    if channels * height * width > MOST_NUMBERS:
        raise click.BadParameter(f"{value!r} is no image; give at most {MOST_NUMBERS:,} numbers")
    return channels, height, width


@click.command(name="plan", short_help="Foresee time, memory and disk of a training.")
@click.argument("data", required=False)
@limit_option
@click.option("--images", type=POSITIVE, metavar="N", help="Training images, without DATA.")
@click.option("--test-images", type=POSITIVE, metavar="N", help="Test images, without DATA.")
@click.option(
    "--shape",
    callback=read_shape,
    metavar="C,H,W",
    help="Channels, height and width, without DATA.",
)
@click.option("--classes", type=POSITIVE, metavar="K", help="Number of classes, without DATA.")
@click.option("--gpus", type=POSITIVE, metavar="G", help="Plan for so many GPUs, with --tflops.")
@click.option(
    "--tflops",
    type=RATE,
    metavar="R",
    help="Peak bfloat16 rate of one GPU in 1e12 operations per second, without sparsity.",
)
@click.option(
    "--bandwidth",
    type=RATE,
    metavar="GB/S",
    help="Memory bandwidth of one GPU.  [default: in proportion to --tflops, as on an H100]",
)
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="TOML file of settings, such as the config.toml of a run; options override it.",
)
@output_options
def command(
    data: str | None,
    *,
    limit: int | None,
    images: int | None,
    test_images: int | None,
    shape: tuple[int, int, int] | None,
    classes: int | None,
    gpus: int | None,
    tflops: float | None,
    bandwidth: float | None,
    config: Path | None,
    as_json: bool,
    no_certificate: bool,
    **options: Any,
) -> None:
    """Foresee what 'convexcnn fit DATA' with the same options would take, without training.

    Time, peak memory, disk and floating-point operations come phase by phase, from the formulas of
    the solvers and from short measurements of this machine (some seconds); or, with --gpus and
    --tflops, for GPUs that are not here, at an assumed part of their peak rate.

    DATA is as for 'convexcnn fit'. Its images are not read: a name needs no files, and of a folder
    files are counted. Without DATA, give --images, --shape and --classes.
    """
    from convexcnn.cli.baseline_training import read_baselines
    from convexcnn.cli.settings import combine, make_estimator
    from convexcnn.costs.plan import make_plan

    settings = combine(config, {**options, "limit": limit})
    estimator = make_estimator(settings)
    baselines = read_baselines(settings)
    hardware = _hardware(gpus, tflops, bandwidth, str(settings.get("device", "auto")))
    plan = make_plan(
        estimator,
        _survey(data, settings, images, test_images, shape, classes),
        hardware,
        certificate=not no_certificate,
        baselines=baselines,
    )
    console = Console(as_json=as_json)
    show_plan(plan, console)
    console.result(plan.to_dict())


_own = {parameter.name for parameter in command.params} | {*NOT_PLANNED}
command.params += [parameter for parameter in fit.params if parameter.name not in _own]


def _survey(
    data: str | None,
    settings: dict[str, Any],
    images: int | None,
    test_images: int | None,
    shape: tuple[int, int, int] | None,
    classes: int | None,
) -> DataSurvey:
    """How large the data is: by DATA, or by numbers."""
    from convexcnn.data.survey import DataSurvey, survey_dataset

    numbers = {"--images": images, "--shape": shape, "--classes": classes}
    given = [name for name, value in numbers.items() if value is not None]
    if data is not None:
        given += ["--test-images"] if test_images is not None else []
        if given:
            raise click.UsageError(f"DATA says how large it is; leave out {', '.join(given)}")
        reading = {key: settings.get(key) for key in ("image_size", "limit")}
        return survey_dataset(data, seed=int(settings.get("seed", 0)), **reading)
    if images is None or shape is None or classes is None:
        missing = [name for name, value in numbers.items() if value is None]
        raise click.UsageError(f"give DATA, or {', '.join(missing)}")
    tests = test_images or 0
    name = f"{images:,} images of {shape[1]}x{shape[2]} pixels"
    return DataSurvey(name, images, tests, shape, classes, 1, images + tests)


def _hardware(
    gpus: int | None, tflops: float | None, bandwidth: float | None, device: str
) -> Hardware:
    from convexcnn.costs.hardware import GivenGPUs, ThisMachine
    from convexcnn.models.devices import resolve_device

    if tflops is None:
        if gpus is not None or bandwidth is not None:
            raise click.UsageError("--gpus and --bandwidth describe GPUs; give their --tflops too")
        return ThisMachine(resolve_device(device))
    return GivenGPUs(gpus or 1, tflops, bandwidth, ThisMachine())


def show_plan(plan: Plan, console: Console) -> None:
    """Print a line per phase, the sums, and what a reader should know."""
    if console.as_json:
        return
    found = plan.to_dict()
    rows = [
        [
            entry["phase"],
            scaled(entry["flops"], ""),
            ("" if entry["known"] else "more than ") + duration(entry["seconds"]),
            scaled(entry["memory_bytes"], "B"),
        ]
        for entry in found["phases"]
        if entry["seconds"] or not entry["known"]
    ]
    columns = [f"{plan.data.name}, {plan.model}", "operations", "time", "memory"]
    console.table(columns, rows)
    at_least = "" if plan.complete else "at least "
    console.show(f"For {found['hardware']['name']}")
    if plan.solver is not None:
        reason = f": {plan.solver['reason']}" if plan.solver["reason"] else ""
        console.show(f"Solver: {plan.solver['solver']}{reason}")
    console.show(f"Time: {at_least}{duration(plan.seconds)}")
    console.show(f"Operations: {at_least}{scaled(plan.flops, '')}")
    console.show(f"Peak memory: {scaled(plan.peak_memory, 'B')}")
    temporary = f", and {scaled(plan.temporary_bytes, 'B')} of temporary files"
    files = temporary if plan.temporary_bytes else ""
    console.show(f"Disk: {scaled(plan.run_bytes, 'B')} for the run{files}")
    for note in dict.fromkeys(p.note for p in plan.phases if p.note and not p.known):
        console.note(f"Note: {note}.")
    if plan.peak_memory > found["machine_memory_bytes"] and "gpus" not in found["hardware"]:
        memory = scaled(found["machine_memory_bytes"], "B")
        console.note(f"Warning: this machine has {memory} of memory; {REMEDY}.")


REMEDY = "use fewer or smaller images (--limit, --image-size), or fewer gates (--n-gates)"


def scaled(value: float, unit: str) -> str:
    """A number as people read it: 1.2 T, 3.4 GB."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value / 1e3:.3g} k{unit}" if value else "-"
