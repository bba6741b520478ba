"""`convexcnn explain`: what a model looked at, and whether its maps tell the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from convexcnn.cli.options import FOLDER, PICTURES, data_options, output_options, run_seed_option

if TYPE_CHECKING:
    from convexcnn.cli.console import Console
    from convexcnn.cli.explained import Subjects
    from convexcnn.models.base import ImageClassifier

METHODS = ("contributions", "occlusion", "gradcam", "gradient")


@click.command(name="explain", short_help="Show what a trained model looked at.")
@click.argument("run", type=FOLDER)
@click.argument("images", nargs=-1, type=PICTURES)
@click.option("--data", metavar="DATA", help="Data set with the test images to explain.")
@click.option(
    "--test-index",
    "indices",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Explain test image N of --data, counted from 0; may be given more than once.",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice([*METHODS, "all"]),
    multiple=True,
    default=("all",),
    show_default=True,
    help="What to show; may be given more than once.",
)
@click.option(
    "--target",
    metavar="CLASS",
    help="Explain the score of this class.  [default: the predicted class]",
)
@click.option(
    "--block",
    type=click.IntRange(min=1),
    metavar="N",
    help="Explain the head of block N of a stack, counted from 1.  [default: the prediction]",
)
@click.option(
    "--out",
    type=FOLDER,
    metavar="FOLDER",
    help="Write a figure of every picture, and explanations.json with all maps, into FOLDER.",
)
@click.option(
    "--faithfulness",
    type=click.IntRange(min=2),
    metavar="N",
    help="Measure the methods on the first N test images of --data, and random maps beside them.",
)
@data_options
@run_seed_option
@output_options
def command(
    run: Path,
    images: Sequence[Path],
    *,
    data: str | None,
    indices: Sequence[int],
    methods: Sequence[str],
    target: str | None,
    block: int | None,
    out: Path | None,
    faithfulness: int | None,
    root: Path | None,
    download: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Explain what the model of RUN says of IMAGES, or of test images of --data.

    Every method gives a map of the picture: where the score comes from. Contributions are exact;
    the page 'What a map means' of the documentation says what each map means, also of a stack.
    IMAGES are files or folders, and are read as predict reads them; --data is read as RUN read its
    data, with the --seed and --image-size in its config.toml unless they are given.
    """
    from convexcnn.cli.console import Console
    from convexcnn.cli.explained import (
        collect,
        explain_pictures,
        head_of,
        methods_of,
        target_of,
        write_explanations,
    )
    from convexcnn.cli.outputs import check_folder, folders_read
    from convexcnn.cli.trained import load_trained, reading_of, warn_of_units
    from convexcnn.errors import DataError

    console = Console(as_json=as_json)
    _check_use(images, data, indices, faithfulness, out)
    if out is not None:
        check_folder(out, "--out", [*images, *(folders_read(data) if data is not None else [])])
    model = load_trained(run)
    if block is not None:
        model = head_of(model, block, run)
    chosen = methods_of(model, () if "all" in methods else tuple(dict.fromkeys(methods)))
    if "all" in methods and len(chosen) < len(METHODS):
        console.note(f"Only {chosen[0]} explains a model with max pooling.")
    column = None if target is None else target_of(model, target)
    skip_bad = bool(reading["skip_bad"])
    if data is not None:
        reading = {"root": root, "download": download, **reading_of(run, reading)}
    subjects = collect(model, images, data, indices, reading, skip_bad=skip_bad)
    tested = 0 if subjects.test is None else len(subjects.test)
    if faithfulness is not None and tested < faithfulness:
        raise DataError(f"there are {tested} test images; lower --faithfulness {faithfulness}")
    for name in subjects.skipped:
        console.note(f"Skipped: {name}")
    result: dict[str, Any] = {"run": str(run), "block": block, "methods": list(chosen)}
    result["skipped"], result["explanations"] = list(subjects.skipped), []
    if len(subjects.names):
        warn_of_units(console, model, subjects.images)
        found = explain_pictures(model, subjects, chosen, column)
        if out is not None:
            write_explanations(out, subjects, found)
            console.note(f"Written: {out}")
        else:
            console.note("With --out FOLDER the maps are written as pictures.")
        result["explanations"] = [explanation.summary() for explanation in found]
        _show(console, found)
    if faithfulness is not None:
        result["faithfulness"] = _measure(
            console, model, subjects, chosen, column, faithfulness, int(reading["seed"])
        )
    console.result(result)


def _check_use(
    images: Sequence[Path],
    data: str | None,
    indices: Sequence[int],
    faithfulness: int | None,
    out: Path | None,
) -> None:
    """Refuse what does not go together, and options that nothing would come of."""
    if (indices or faithfulness) and data is None:
        raise click.UsageError("--test-index and --faithfulness need test images; name --data")
    if not images and not indices and not faithfulness:
        raise click.UsageError("nothing to explain; give IMAGES, --test-index or --faithfulness")
    if data is not None and not indices and not faithfulness:
        raise click.UsageError("--data is for --test-index and --faithfulness; give one of them")
    if out is not None and not images and not indices:
        raise click.UsageError("--out is for the maps of pictures; give IMAGES or --test-index")
    context = click.get_current_context()
    for name in ("root", "download", "seed", "image_size"):
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if data is None and given:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for test images; name --data, or leave it out")


def _show(console: Console, found: Sequence[Any]) -> None:
    rows = []
    for explanation in found:
        top = ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in explanation.top)
        exact = "-"
        if explanation.error is not None:
            exact = f"{explanation.error:.0e}"
        rows.append([explanation.name, explanation.target, f"{explanation.score:.3f}", top, exact])
    console.table(["image", "class", "score", "highest scores", "sum less score"], rows)


def _measure(
    console: Console,
    model: ImageClassifier,
    subjects: Subjects,
    methods: Sequence[str],
    column: int | None,
    count: int,
    seed: int,
) -> dict[str, Any]:
    from convexcnn.explain import METHODS as EXPLAINERS
    from convexcnn.explain import faithfulness_table

    assert subjects.test is not None
    images = subjects.test.images[:count]
    with console.progress() as show:
        table = faithfulness_table(
            model,
            images,
            column,
            methods={name: EXPLAINERS[name] for name in methods},
            random_state=seed,
            progress=lambda step, steps: show(
                {"phase": "faithfulness", "step": step, "steps": steps}
            ),
        )
    rows = []
    for row in table:
        shuffled = " ".join(f"{name} {value:+.2f}" for name, value in row.randomised.items())
        rows.append(
            [
                row.method,
                f"{row.deletion:.3f} ± {row.deletion_error:.3f}",
                f"{row.insertion:.3f} ± {row.insertion_error:.3f}",
                shuffled or "-",
                f"{row.seconds:.1f} s",
            ]
        )
    columns = ["method", "deletion (low)", "insertion (high)", "same after shuffling", "time"]
    console.table(columns, rows)
    return {"images": count, "table": [row.to_dict() for row in table]}
