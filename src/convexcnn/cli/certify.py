"""`convexcnn certify`: prove again, from its files alone, how good a trained model is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convexcnn.cli.options import (
    FOLDER,
    data_options,
    limit_option,
    output_options,
    run_seed_option,
)

if TYPE_CHECKING:
    from convexcnn.cli.console import Console
    from convexcnn.data import ImageDataset
    from convexcnn.models import ConvexConvClassifier, LayerwiseConvexCNN
    from convexcnn.models.base import ImageClassifier

ROUNDING = 1e-6
"""Part of a gap, and of a tenth of the primal value, that float32 features may differ by."""


@click.command(name="certify", short_help="Prove again how near a model is to its optimum.")
@click.argument("run", type=FOLDER)
@click.argument("data")
@data_options
@limit_option
@run_seed_option
@output_options
def command(
    run: Path,
    data: str,
    *,
    root: Path | None,
    download: bool,
    as_json: bool,
    **reading: Any,
) -> int:
    """Recompute the certificate of RUN from its model and the training images of DATA.

    DATA is what RUN was trained on; it is read as RUN read it, with the --limit, --seed and
    --image-size in its config.toml unless they are given. Nothing of the solver is used. Beside the
    certificate stand a search for a further neuron, which proves nothing, and the plain ReLU
    network of the solution. Of a stack, every block is certified given its frozen input.

    Exit code 1: DATA is not what the model was trained on, or the certificate is worse than the
    recorded one by more than rounding.
    """
    from convexcnn.cli.console import Console
    from convexcnn.cli.left_out import note_left_out
    from convexcnn.cli.trained import check_fits, load_trained, reading_of
    from convexcnn.data import load_dataset
    from convexcnn.errors import SettingError
    from convexcnn.models import ConvexConvClassifier, LayerwiseConvexCNN

    console = Console(as_json=as_json)
    model = load_trained(run)
    if not isinstance(model, (ConvexConvClassifier, LayerwiseConvexCNN)):
        raise SettingError(
            f"{run} holds a non-convex network, and there is no certificate for those; train with "
            f"another --formulation"
        )
    dataset = load_dataset(data, root=root, download=download, **reading_of(run, reading))
    note_left_out(dataset, console)
    check_fits(model, dataset)
    blocks = len(model.blocks_) if isinstance(model, LayerwiseConvexCNN) else 1
    recorded = _recorded(run, blocks)
    proofs = _prove(model, dataset, console)
    problems = _problems(model, dataset, proofs, recorded)
    for number, proof in enumerate(proofs, 1):
        if len(proofs) > 1:
            console.show(f"Block {number}:")
        show_proof_words(proof, console)
    for problem in problems:
        console.note(f"Problem: {problem}")
    if not problems:
        console.show("Passed: the data are those of the run, and the certificate holds.")
    console.result(
        {
            "run": str(run),
            "data": dataset.describe(),
            "passed": not problems,
            "problems": problems,
            **_reported(model, proofs, recorded),
        }
    )
    return 1 if problems else 0


def _prove(
    model: ConvexConvClassifier | LayerwiseConvexCNN, dataset: ImageDataset, console: Console
) -> list[dict[str, Any]]:
    """Prove again what can be said of every block, as `result.json` holds it."""
    from convexcnn.models import ConvexConvClassifier
    from convexcnn.models.proof import prove

    test = None if dataset.test is None else dataset.test.images
    images, labels = dataset.train.images, dataset.train.labels
    start = time.perf_counter()
    with console.progress() as show:

        def timed(phase: str, work: Callable[[], Any]) -> Any:
            value = work()
            show({"phase": phase, "step": 1, "seconds": time.perf_counter() - start})
            return value

        if isinstance(model, ConvexConvClassifier):
            return [prove(model, images, labels, test, timed).to_dict()]

        def count(done: int) -> None:
            show({"phase": "blocks", "step": done, "steps": len(model.blocks_)})

        return [{"certificate": c.to_dict()} for c in model.certify(images, labels, count)]


def _reported(
    model: ConvexConvClassifier | LayerwiseConvexCNN,
    proofs: list[dict[str, Any]],
    recorded: list[dict[str, Any] | None],
) -> dict[str, Any]:
    """Proofs and records for `--json`: of a two-layer model as they are, of a stack in lists."""
    from convexcnn.models import ConvexConvClassifier

    if isinstance(model, ConvexConvClassifier):
        return {"recorded": recorded[0], **proofs[0]}
    return {"recorded": recorded, "blocks": proofs}


def show_proof_words(proof: Mapping[str, Any], console: Console) -> None:
    """Print what `result.json` holds of a proof; parts may be missing."""
    certificate = proof.get("certificate")
    if certificate is None:
        return
    console.show(
        f"Certificate: {certificate['scope']}, to {certificate['relative_gap']:.1e} "
        f"(primal {certificate['primal']:.8g}, dual {certificate['dual']:.8g})"
    )
    if certificate.get("violation"):
        console.show(f"Cones: left by {certificate['violation']:.1e}, and moved back")
    for title, name in (("Further neuron", "further_neuron"), ("ReLU network", "relu_network")):
        if proof.get(name) is not None:
            console.show(f"{title}: {proof[name]['words']}")


def _recorded(run: Path, n_blocks: int) -> list[dict[str, Any] | None]:
    """The certificates in the `result.json` of a fit; None for each that it has not.

    Raises:
        RunError: it is damaged.
    """
    from convexcnn.cli.run_folder import RESULT_FILE, is_run, read_result
    from convexcnn.errors import RunError

    blocks = read_result(run).get("blocks") if is_run(run) else None
    known = [b for b in blocks if isinstance(b, dict)] if isinstance(blocks, list) else []
    found = [block.get("certificate") for block in known[:n_blocks]]
    found += [None] * (n_blocks - len(found))
    for number, certificate in enumerate(found, 1):
        if certificate is not None and not _has_gap(certificate):
            raise RunError(
                f"{run / RESULT_FILE} is damaged: the certificate of block {number} has no gap; "
                "train it again"
            )
    return found


def _has_gap(certificate: Any) -> bool:
    """Whether a certificate holds its gap, which is None where the bound is infinite."""
    gap: Any = certificate.get("gap", "") if isinstance(certificate, dict) else ""
    return gap is None or (type(gap) in (int, float) and abs(gap) <= sys.float_info.max)


def _problems(
    model: ImageClassifier,
    dataset: ImageDataset,
    proofs: Sequence[Mapping[str, Any]],
    recorded: Sequence[Mapping[str, Any] | None],
) -> list[str]:
    problems = []
    if model.fingerprint_ is not None and dataset.fingerprint() != model.fingerprint_:
        problems.append(
            f"{dataset.name} is not the data that the model was trained on: {model.n_train_:,} "
            f"images with fingerprint {model.fingerprint_[:12]}, and not {len(dataset.train):,} "
            f"with {dataset.fingerprint()[:12]}; the certificate above is for other images"
        )
        return problems
    for number, (proof, certificate) in enumerate(zip(proofs, recorded, strict=True), 1):
        if certificate is None or certificate["gap"] is None:
            continue
        found, before = proof["certificate"]["gap"], float(certificate["gap"])
        slack = ROUNDING * (abs(before) + 0.1 * abs(proof["certificate"]["primal"]))
        if not found <= before + slack:
            of_block = f" of block {number}" if len(proofs) > 1 else ""
            problems.append(
                f"the gap{of_block} is {found:.3e}, and result.json records {before:.3e}: the "
                f"model or its result.json was changed"
            )
    return problems
