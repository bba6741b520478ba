"""`convexcnn fit`: train a classifier and write its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from convexcnn.cli.options import (
    FILE,
    FOLDER,
    SEED,
    data_options,
    limit_option,
    output_options,
    run_options,
)
from convexcnn.cli.settings import FORMULATIONS, MODELS, SOLVERS, STACKS

POSITIVE = click.IntRange(min=1)


@click.command(name="fit", short_help="Train a classifier on images.")
@click.argument("data")
@click.option("--out", type=FOLDER, required=True, metavar="RUN", help="Folder of the new run.")
@data_options
@limit_option
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="TOML file of settings, such as the config.toml of a run; options override it.",
)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    help="One block, or a stack of blocks trained one after the other.  [default: two-layer]",
)
@click.option(
    "--blocks",
    type=click.Choice(STACKS),
    help="Stack of --model layerwise.  [default: imagenet from 128 pixels on, else small]",
)
@click.option(
    "--formulation",
    type=click.Choice(FORMULATIONS),
    help="The gated convex program, the exact one of ReLU networks, the same with its cones as a "
    "penalty (solver sgd), or the non-convex network.  [default: gated]",
)
@click.option(
    "--regulariser",
    type=click.Choice(["l2", "group", "nuclear"]),
    help="What beta weighs: half the sum of squares, the norms of filters, or those of factors "
    "that classes share.  [default: l2]",
)
@click.option(
    "--loss",
    type=click.Choice(["squared", "cross_entropy"]),
    help="Training loss.  [default: squared; of non-convex and stacks cross_entropy]",
)
@click.option(
    "--solver",
    type=click.Choice(SOLVERS),
    help="What solves the program; auto chooses and says why. sgd and, for non-convex, adam "
    "descend without a guarantee.  [default: auto]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GAP",
    help="Relative duality gap to solve to.  [default: 1e-6 for l2 with squared loss, else 1e-3]",
)
@click.option(
    "--filter-size", type=POSITIVE, metavar="PIXELS", help="Side of a filter.  [default: 6]"
)
@click.option(
    "--stride",
    type=POSITIVE,
    metavar="PIXELS",
    help="Pixels from one patch to the next.  [default: 2]",
)
@click.option(
    "--padding",
    type=click.IntRange(min=0),
    metavar="PIXELS",
    help="Zeros around every image.  [default: 0]",
)
@click.option(
    "--pooling", type=POSITIVE, metavar="CELLS", help="Pooling cells per side.  [default: 2]"
)
@click.option(
    "--pool",
    type=click.Choice(["average", "max"]),
    help="What a cell keeps of its responses; max is for small programs.  [default: average]",
)
@click.option(
    "--gates",
    type=click.Choice(["gaussian", "patches", "sgd", "dual", "lookahead"]),
    help="Where gates come from: random, patches of the images, a briefly trained network, column "
    "generation, or, of a stack, a network that serves the next block too.  [default: sgd; of "
    "stacks with names lookahead]",
)
@click.option(
    "--n-gates",
    type=POSITIVE,
    metavar="G",
    help="Number of gates, of every block.  [default: 128, fewer where memory is short; of a "
    "stack those of --blocks]",
)
@click.option(
    "--n-filters", type=POSITIVE, metavar="M", help="Filters of non-convex.  [default: 256]"
)
@click.option(
    "--whiten",
    type=click.IntRange(min=0),
    metavar="DIRECTIONS",
    help="Whiten patches to this many principal directions; 0 takes raw pixels.  [default: 48]",
)
@click.option(
    "--beta",
    "betas",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    metavar="BETA",
    help="Weight of the regulariser; given more than once, validation picks.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Minutes for a stack, shared among its blocks; few images may take less.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "flip", "crop", "flip+crop"]),
    help="Train on mirror images, on shifted images, or both.  [default: flip; of stacks "
    "flip+crop]",
)
@click.option(
    "--baselines",
    metavar="NAMES",
    help="Also train alexnet or vgg11 by back-propagation, or the stack's own blocks by SGD, one "
    "after the other (greedy); several with commas, each for --budget minutes, shown beside it.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory that the process may use, Python and torch (0.6 GB) included; what does not fit "
    "lies in temporary files.  [default: 60 % of the machine's]",
)
@click.option(
    "--seed",
    type=SEED,
    metavar="N",
    help="Seed of everything random.  [default: 0]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the unfinished stack of RUN, by its own settings.",
)
@click.option(
    "--extend",
    type=FOLDER,
    metavar="OTHER",
    help="Keep the blocks of OTHER, the run of a stack on the same data, and train further ones "
    "after them; its settings hold where no others are given.",
)
@click.option(
    "--no-certificate",
    is_flag=True,
    help="Skip the bound on the distance from the optimum and what stands beside it.",
)
@click.option(
    "--log-jsonl", type=FILE, metavar="FILE", help="Append every event of the training to FILE."
)
@click.option(
    "--tensorboard",
    type=FOLDER,
    metavar="FOLDER",
    help="Write the curves of the training into FOLDER, for TensorBoard.",
)
@run_options
@output_options
def command(
    data: str,
    *,
    out: Path,
    root: Path | None,
    download: bool,
    overwrite: bool,
    as_json: bool,
    config: Path | None,
    resume: bool,
    extend: Path | None,
    no_certificate: bool,
    log_jsonl: Path | None,
    tensorboard: Path | None,
    **options: Any,
) -> None:
    """Train a classifier on DATA and write the folder RUN, with its report.

    DATA is a name ('convexcnn data list' shows them), a folder of class folders, of tar shards or
    of images.npy and labels.npy, a .csv of labels, or an .npz file with images and labels.
    Without options a convex program is solved for several weights of its regulariser, and a
    validation split picks one. With --model layerwise several blocks are trained one after the
    other, each as such a program on the frozen maps of the last.

    RUN appears when everything is done. Interrupted, nothing is left behind; but the finished
    blocks of a stack are kept in RUN.partial, and the same command continues, or
    'convexcnn fit DATA --out RUN --resume', which may give the rest a larger --budget.

    'convexcnn fit DATA --out RUN --extend OTHER' adds blocks to a trained stack.

    Several processes share the images if torchrun starts them:
    'torchrun --nproc-per-node 2 -m convexcnn fit DATA --out RUN'.
    """
    from convexcnn.callbacks import JsonLinesLogger, TensorBoardLogger
    from convexcnn.cli.console import Callback, Console
    from convexcnn.cli.extension import extended_settings
    from convexcnn.cli.outputs import check_file, check_folder, folders_read
    from convexcnn.cli.run_folder import unfinished_settings
    from convexcnn.cli.settings import combine
    from convexcnn.cli.training import fit_run
    from convexcnn.distributed import job, launched

    if resume and (config is not None or extend is not None):
        raise click.UsageError(
            "--resume has the settings of the run; leave out --config and --extend"
        )

    def settings() -> dict[str, Any]:
        if resume:
            return combine(unfinished_settings(out), options)
        given = combine(config, {**options, "extend": None if extend is None else str(extend)})
        return extended_settings(given) if "extend" in given else given

    def loggers() -> list[Callback]:
        found: list[Callback] = []
        if log_jsonl is not None and launched().writes:
            check_file(log_jsonl)
            found.append(JsonLinesLogger(log_jsonl))
        if tensorboard is not None and launched().writes:
            check_folder(tensorboard, "--tensorboard", folders_read(data))
            found.append(TensorBoardLogger(tensorboard))
        return found

    with job() as processes:
        fit_run(
            data,
            out,
            processes.same(settings),
            root=root,
            download=download,
            overwrite=overwrite,
            certificate=not no_certificate,
            loggers=loggers,
            console=Console(as_json=as_json),
        )
