"""`convexcnn export`: a trained model as a file that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from convexcnn.cli.options import FILE, FOLDER, output_options


@click.command(name="export", short_help="Write a trained model as ONNX or as a torch program.")
@click.argument("run", type=FOLDER)
@click.argument("out", type=FILE)
@click.option(
    "--to",
    "to",
    type=click.Choice(["onnx", "torch"]),
    required=True,
    help="Format: ONNX, or torch.export (.pt2), which torch alone can load.",
)
@click.option(
    "--pixels",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="Type of the pixels that the file takes; their units are those of training.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@output_options
def command(run: Path, out: Path, *, to: str, pixels: str, overwrite: bool, as_json: bool) -> None:
    """Write the model of RUN to the file OUT, for use without this library.

    The file takes images (n, channels, height, width), of any n, in the units they were trained on
    (0 to 255 for pictures), and gives scores and probabilities; scaling and centring are inside.
    It is run on random pixels first, and appears only if its scores are those of the model.
    """
    from convexcnn.cli.console import Console
    from convexcnn.cli.outputs import check_file
    from convexcnn.cli.trained import load_trained
    from convexcnn.errors import RunError
    from convexcnn.models.export import FORMATS

    console = Console(as_json=as_json)
    target = check_file(out)
    if out.exists() and not out.is_file():
        raise RunError(f"{out} is no regular file, and is not replaced; name another file")
    if out.exists() and not overwrite:
        raise RunError(f"{out} exists; name another file, or replace it with --overwrite")
    model = load_trained(run)
    verified = FORMATS[to](model, target, pixels=pixels)
    if verified is None:
        console.note("Not verified: onnxruntime is not installed (pip install 'convexcnn[onnx]').")
    else:
        console.note(
            f"Verified on {verified.images} random images: scores differ by at most "
            f"{verified.largest:.1e} of the largest."
        )
    shape = "x".join(map(str, model.image_shape_))
    console.show(f"Written: {out} ({out.stat().st_size:,} bytes; takes {pixels} n x {shape})")
    console.result(
        {
            "run": str(run),
            "file": str(out),
            "to": to,
            "pixels": pixels,
            "image_shape": list(model.image_shape_),
            "classes": model.column_names(),
            "bytes": out.stat().st_size,
            "verified": None if verified is None else verified.to_dict(),
        }
    )
