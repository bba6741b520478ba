"""Model folders and runs that are damaged, of another version, or hostile."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_inputs import Bad, check
from safetensors.torch import load_file, save_file

from commands import typed

Change = Callable[[Path], object]


def config(*keys: str, to: Any) -> Change:
    """Put a value deep into config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        description = json.loads(path.read_text())
        inner = description
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        path.write_text(json.dumps(description))

    return change


def tensor(name: str, turn: Callable[[torch.Tensor], torch.Tensor] | None) -> Change:
    """Replace a tensor by a function of it; None removes it."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        found = tensors.pop(name)
        if turn is not None:
            tensors[name] = turn(found).contiguous()
        save_file(tensors, path)

    return change


def write(name: str, content: bytes | str) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.full_like(x, value)


def pickled(folder: Path) -> None:
    torch.save({"coef_": torch.zeros(1)}, folder / "model.safetensors")


def certificate(value: object) -> Change:
    """Put the certificate of a block into result.json."""
    result = {"format": 1, "kind": "fit", "blocks": [{"certificate": value}]}
    return write("result.json", json.dumps(result))


class Bomb:
    """Runs a command when unpickled; it must never be."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def header(length: int, body: bytes = b"") -> bytes:
    """The beginning of a safetensors file, with a length that need not be true."""
    return struct.pack("<Q", length) + body


OFFSETS = b'{"coef_":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
UNKNOWN_TYPE = b'{"coef_":{"dtype":"F8_E8M0","shape":[36],"data_offsets":[0,36]}}'
NO_GAP = "result.json is damaged: the certificate of block 1 has no gap"
MISFIT = "do not fit together"
FOLDERS: list[tuple[str, Change]] = [
    # config.json
    ("config.json is missing", lambda f: (f / "config.json").unlink()),
    ("config.json cannot be read as JSON", write("config.json", "")),
    ("config.json cannot be read as JSON", write("config.json", "{")),
    ("config.json cannot be read as JSON", write("config.json", pickle.dumps(Bomb()))),
    ("config.json cannot be read as JSON", write("config.json", b"\xff\xfe{}")),
    ("config.json cannot be read as JSON", write("config.json", "[" * 100_000)),
    ("config.json has format None", write("config.json", "[1]")),
    ("config.json has format None", write("config.json", "{}")),
    ("config.json has format 2; this version reads format 1", config("format", to=2)),
    ("config.json has format '1'", config("format", to="1")),
    ("names the model 'Oracle'", config("class", to="Oracle")),
    ("names the model ['x']", config("class", to=["x"])),
    ("names the model None", config("class", to=None)),
    (MISFIT, config("class", to="NonConvexConvClassifier")),
    (MISFIT, config("class", to="LayerwiseConvexCNN")),
    (MISFIT, config("parameters", to=[])),
    (MISFIT, config("parameters", "colour", to="blue")),
    (MISFIT, config("parameters", "filter_size", to="big")),
    ("larger than the 8x8 image", config("parameters", "filter_size", to=40)),
    (MISFIT, config("parameters", "filter_size", to=-1)),
    (MISFIT, config("parameters", "stride", to=0)),
    (MISFIT, config("parameters", "stride", to=1.5)),
    (MISFIT, config("parameters", "pooling", to=10**9)),
    (MISFIT, config("parameters", "formulation", to="relu")),
    (MISFIT, config("parameters", "formulation", to="exact")),
    (MISFIT, config("parameters", "loss", to="hinge")),
    ("random_state is -1", config("parameters", "random_state", to=-1)),
    (MISFIT, config("classes", to=3)),
    (MISFIT, config("classes", to=["a", "b"])),
    (MISFIT, config("classes", to=[[0], [1], [2]])),
    (MISFIT, config("class_names", to=["only one"])),
    (MISFIT, config("class_names", to=7)),
    (MISFIT, config("image_shape", to=[3, 8, 8])),
    (MISFIT, config("image_shape", to=[64])),
    (MISFIT, config("image_shape", to=[1, -8, -8])),
    ("a saved scaler", config("scaler", to={"mean": [0.0], "scale": [0.0]})),
    ("more than this machine's memory", config("image_shape", to=[1, 10**6, 10**6])),
    (MISFIT, config("image_shape", to=[1, 10**7, 10**7])),
    ("a saved scaler", config("scaler", to={"mean": [float("nan")], "scale": [1.0]})),
    (MISFIT, config("scaler", to=None)),
    ("beta_ is nan", config("numbers", "beta_", to=float("nan"))),
    (MISFIT, config("numbers", "temperature_", to="warm")),
    (MISFIT, config("numbers", "temperature_", to=0.0)),
    (MISFIT, config("numbers", to={})),
    (MISFIT, config("constant", to=None)),
    (MISFIT, config("training", to=None)),
    (MISFIT, config("training", "images", to=float("inf"))),
    # model.safetensors
    ("model.safetensors is missing", lambda f: (f / "model.safetensors").unlink()),
    ("model.safetensors is damaged", write("model.safetensors", b"")),
    ("model.safetensors is damaged", pickled),
    ("model.safetensors is damaged", write("model.safetensors", pickle.dumps(Bomb()))),
    ("model.safetensors is damaged", write("model.safetensors", header(2**62))),
    ("model.safetensors is damaged", write("model.safetensors", header(100_000_000, b"{"))),
    ("model.safetensors is damaged", write("model.safetensors", header(4, b"null"))),
    ("model.safetensors is damaged", write("model.safetensors", header(len(OFFSETS), OFFSETS))),
    ("model.safetensors", write("model.safetensors", header(64, UNKNOWN_TYPE + bytes(36)))),
    ("coef_ is not finite float32", tensor("coef_", filled(float("nan")))),
    ("coef_ is not finite float32", tensor("coef_", filled(float("-inf")))),
    ("coef_ is not finite float32", tensor("coef_", torch.Tensor.double)),
    ("coef_ is not finite float32", tensor("coef_", torch.Tensor.half)),
    ("gates_ is not finite float32", tensor("gates_", torch.Tensor.int)),
    ("coef_ has shape", tensor("coef_", torch.Tensor.flatten)),
    ("coef_ has shape", tensor("coef_", lambda x: x[..., 1:])),
    ("coef_ has shape", tensor("coef_", lambda x: x[:0])),
    ("intercept_ has shape", tensor("intercept_", lambda x: x[1:])),
    ("transform.mean has shape", tensor("transform.mean", lambda x: x[1:])),
    ("transform.projection has shape", tensor("transform.projection", lambda x: x[1:])),
    (MISFIT, tensor("transform.projection", torch.Tensor.sum)),
    (MISFIT, tensor("gates_", torch.Tensor.sum)),
    (MISFIT, tensor("gates_", None)),
    (MISFIT, tensor("coef_", None)),
]
COMMANDS = ("predict bad {picture}", "evaluate bad {data}")
TABLE = [(COMMANDS[row % 2], *case) for row, case in enumerate(FOLDERS)]

RUNS: list[tuple[str, str, Change]] = [
    ("report bad", "is not a run", lambda f: (f / "result.json").unlink()),
    ("report bad", "is not a run", lambda f: (f / "config.toml").unlink()),
    ("report bad", "result.json is damaged", write("result.json", "{")),
    ("report bad", "is not of format 1", write("result.json", "[]")),
    ("report bad", "is not of format 1", write("result.json", '{"format": 9}')),
    ("certify bad {data}", "config.toml", write("config.toml", "= 3")),
    ("certify bad {data}", "limit is 'ten'", write("config.toml", 'limit = "ten"')),
    ("certify bad {data}", "seed is 'lucky'", write("config.toml", 'seed = "lucky"')),
    ("certify bad {data}", f"seed is {2**32}", write("config.toml", f"seed = {2**32}")),
    ("evaluate bad {data}", "seed is 'lucky'", write("config.toml", 'seed = "lucky"')),
    (
        "explain bad --data {data} --test-index 0",
        "config.toml: image_size is 0",
        write("config.toml", "image_size = 0"),
    ),
    ("certify bad {data}", "result.json is damaged", write("result.json", b"\xff")),
    ("certify bad {data}", NO_GAP, certificate({})),
    ("certify bad {data}", NO_GAP, certificate(3)),
    ("certify bad {data}", NO_GAP, certificate({"gap": "small"})),
    ("certify bad {data}", NO_GAP, certificate({"gap": True})),
    ("certify bad {data}", NO_GAP, certificate({"gap": float("nan")})),
    ("certify bad {data}", NO_GAP, certificate({"gap": 10**400})),
]


@pytest.mark.parametrize(
    ("command", "message", "change"),
    [*TABLE, *RUNS],
    ids=[f"{n} {row[0]} | {row[1]}" for n, row in enumerate([*TABLE, *RUNS])],
)
def test_it_is_refused_in_one_line(command, message, change, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def prepare(folder: Path) -> None:
        shutil.copytree(places["run"], folder / "bad")
        change(folder / "bad")

    check(Bad(command, message, prepare), tmp_path, places)
    assert not Path("unpickled").exists()


def test_a_model_with_labels_of_its_own_is_no_bug(places, tmp_path):
    """Saved from Python, where labels may be strings: the commands take it."""
    from convexcnn.models import save_model
    from small import stripes
    from tiny_models import convex

    images, labels = stripes(30)
    names = np.array(["ash", "beech", "cedar"])[labels]
    save_model(convex(betas=0.1).fit(images, names), tmp_path / "run")
    np.savez(tmp_path / "data.npz", images=images, labels=names)
    for arguments in (
        ["predict", tmp_path / "run", places["picture"]],
        ["evaluate", tmp_path / "run", tmp_path / "data.npz", "--split", "all"],
    ):
        done = typed(*arguments)
        assert done.code == 0
        assert "ash" in done.out or "beech" in done.out or "cedar" in done.out
