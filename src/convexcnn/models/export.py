"""A trained classifier as a file that runs without this library: ONNX, or torch's own format.

Both take pixels in the units of training (n, channels, height, width), of any n, and give scores
(n, k) and probabilities (n, k); scaling and centring are part of the graph.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convexcnn.environment import import_extra
from convexcnn.errors import RunError, SettingError
from convexcnn.files import not_written, write_whole
from convexcnn.models.base import ImageClassifier

if TYPE_CHECKING:
    from collections.abc import Iterator

PIXELS = {"float32": torch.float32, "uint8": torch.uint8}
"""Types that an exported graph may take."""

TOLERANCE = 1e-5
"""Largest difference of a score, relative to the largest score, that a verified file may have."""

ROUNDED, MOST_ROUNDED = 1e-3, 0.1
"""The same for images of which something lies within rounding of a gate's boundary, or of the next
16-bit number of a map, for the file though not for the model; and the part of all that may."""

VERIFIED_IMAGES = 64
INPUT, OUTPUTS = "pixels", ("scores", "probabilities")

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Verification:
    """How far an exported file is from the model, on random pixels.

    Args:
        images: that were compared to 1e-5: those of which rounding puts nothing on either side of a
            gate, where scores jump, or of two numbers of a map.
        largest: absolute difference of a score, over the largest absolute score.
    """

    images: int
    largest: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ExportedNetwork(nn.Module):
    """Pixels to scores and probabilities.

    Args:
        network: pixels to scores.
        temperature: that scores are divided by before their softmax.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(pixels)
        return scores, torch.softmax(scores / self.temperature, 1)


def export_torch(
    model: ImageClassifier, path: Path | str, *, pixels: str = "float32"
) -> Verification:
    """Write a model as a program of ``torch.export``; ``torch.export.load(path).module()`` runs it.

    Args:
        model: fitted.
        path: of the file, usually ``.pt2``.
        pixels: ``float32`` or ``uint8``, the type that the program takes.

    Returns:
        How it was verified.

    Raises:
        SettingError: pixels of another type, or a model that has no plain torch network.
        RunError: the file cannot be written, or does not do what the model does.
    """
    network = _network(model)
    example = _random_pixels(model, 2, pixels)

    def write(temporary: Path) -> None:
        content = io.BytesIO()
        names = {"classes.json": json.dumps(model.column_names())}
        with _quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=_any_number())
            torch.export.save(program, content, extra_files=names)
        temporary.write_bytes(content.getvalue())

    def runner(written: Path) -> Run:
        with _quiet():
            run = torch.export.load(written).module()
        return lambda images: run(images)[0]

    return _write_verified(model, network.network, Path(path), pixels, write, runner)


def export_onnx(
    model: ImageClassifier, path: Path | str, *, pixels: str = "float32"
) -> Verification | None:
    """Write a model in the format of ONNX, with its class names as metadata ``classes``.

    Args:
        model: fitted.
        path: of the file, usually ``.onnx``.
        pixels: ``float32`` or ``uint8``, the type that the graph takes.

    Returns:
        How it was verified; None where onnxruntime is not installed.

    Raises:
        SettingError: pixels of another type, or a model that has no plain torch network.
        RunError: packages are missing, the file cannot be written, or does not do what the model
            does.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package, "onnx", "export to ONNX")
    network = _network(model)
    example = _random_pixels(model, 2, pixels)

    def write(temporary: Path) -> None:
        import onnx

        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=_any_number(),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        onnx.helper.set_model_props(proto, {"classes": json.dumps(model.column_names())})
        temporary.write_bytes(proto.SerializeToString())

    def runner(written: Path) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["scores"], {INPUT: images.numpy()})[0])

    if importlib.util.find_spec("onnxruntime") is None:
        _write_file(Path(path), write)
        return None
    return _write_verified(model, network.network, Path(path), pixels, write, runner)


FORMATS: dict[str, Callable[..., Verification | None]] = {
    "onnx": export_onnx,
    "torch": export_torch,
}


def _network(model: ImageClassifier) -> ExportedNetwork:
    model.check_trained()
    to_torch = getattr(model, "to_torch", None)
    if to_torch is None:
        raise SettingError(
            f"{type(model).__name__} has no to_torch, which an export is made of; export a "
            "two-layer model"
        )
    return ExportedNetwork(to_torch(), model.temperature_).eval()


def _any_number() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("images", min=1)},)


def _random_pixels(model: ImageClassifier, n: int, pixels: str) -> Tensor:
    """Noise around the mean of the training images, in their units and inside their range."""
    if pixels not in PIXELS:
        raise SettingError(f"pixels {pixels!r} is not known; choose one of {', '.join(PIXELS)}")
    rng = np.random.default_rng(0)
    mean, scale = (
        np.reshape(part, (-1, 1, 1)) for part in (model.scaler_.mean, model.scaler_.scale)
    )
    noise: NDArray[Any] = mean + scale * rng.standard_normal((n, *model.image_shape_))
    if pixels == "uint8":
        noise = noise.clip(0, 255).round()
    return torch.from_numpy(noise).to(PIXELS[pixels])


def _write_file(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write_whole(path, write)
    except OSError as error:
        raise not_written(path, error) from error


def _write_verified(
    model: ImageClassifier,
    network: nn.Module,
    path: Path,
    pixels: str,
    write: Callable[[Path], None],
    runner: Callable[[Path], Run],
) -> Verification:
    """Write a file, which appears only once it has been seen to do what the network does."""
    images = _random_pixels(model, VERIFIED_IMAGES, pixels)
    found: list[Verification] = []

    def write_and_compare(temporary: Path) -> None:
        write(temporary)
        found.append(_compare(network, runner(temporary), images, path))

    _write_file(path, write_and_compare)
    return found[0]


@torch.no_grad()
def _compare(network: nn.Module, run: Run, images: Tensor, path: Path) -> Verification:
    exact = copy.deepcopy(network).double()(images)
    size = float(exact.abs().max())
    clear = (network(images) - exact).abs().amax(1) <= TOLERANCE * size
    if not bool(clear.any()):
        raise RunError(f"{path}: every test image lies on the boundary of a gate; not verified")
    errors = (run(images[clear]) - exact[clear]).abs().amax(1) / size
    near = errors <= TOLERANCE
    if not (float(errors.max()) <= ROUNDED and float((~near).double().mean()) <= MOST_ROUNDED):
        raise RunError(
            f"{path}: not written, its scores would be off by {float(errors.max()):.1e} of the "
            "largest; try another version of torch, onnx or onnxruntime"
        )
    return Verification(int(near.sum()), float(errors[near].max()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks on packages that are not needed from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
