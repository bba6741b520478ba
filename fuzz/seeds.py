"""Small sound inputs of every target: what mutations start from."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import bundle

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "report")]

import synthetic_runs

import official_files

CLASSES = ("ash", "beech")
Seeds = tuple[bundle.Parts, ...]


def files_in(folder: Path) -> bundle.Parts:
    """The files of a folder as parts; safetensors files as header and data."""
    parts: bundle.Parts = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        apart = path.suffix == ".safetensors"
        parts |= bundle.safetensors_parts(name, content) if apart else {name: content}
    return parts


def written(write: Any, *arguments: Any, **options: Any) -> bundle.Parts:
    """What a function writes into the folder that is its first argument."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "here", *arguments, **options)
        return files_in(Path(folder) / "here")


def chosen(parts: bundle.Parts, *names: str) -> bundle.Parts:
    return {name: parts[name] for name in names}


# official files


@cache
def cifar_binary_base() -> bundle.Parts:
    return written(official_files.write_cifar10_binary, 2)


@cache
def cifar_pickle_base() -> bundle.Parts:
    return written(official_files.write_cifar10_python, 2)


@cache
def idx_base() -> bundle.Parts:
    rng = np.random.default_rng(0)
    parts = {}
    for prefix, n in (("train", 6), ("t10k", 4)):
        pixels = rng.integers(0, 256, (n, 3, 2))
        parts[f"{prefix}-images-idx3-ubyte"] = official_files.idx_bytes(pixels)
        parts[f"{prefix}-labels-idx1-ubyte"] = official_files.idx_bytes(np.arange(n) % 3)
    return parts


def cifar_binary() -> Seeds:
    base = cifar_binary_base()
    return (chosen(base, "data_batch_1.bin", "batches.meta.txt"), chosen(base, "test_batch.bin"))


def cifar_pickle() -> Seeds:
    base = cifar_pickle_base()
    return (
        chosen(base, "data_batch_1"),
        chosen(base, "batches.meta"),
        chosen(base, "data_batch_1", "batches.meta"),
    )


def idx() -> Seeds:
    base = idx_base()
    zipped = {f"{name.replace('-idx', '.idx')}.gz!": content for name, content in base.items()}
    raw = written(lambda folder: bundle.write(zipped, folder))
    return (dict(base), zipped, raw)


# arrays and pictures


def npz() -> Seeds:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 1, 3, 3), np.uint8), np.arange(8) % 3
    arrays: tuple[dict[str, Any], ...] = (
        {"images": images, "labels": labels},
        {"images": images[:, 0], "labels": labels, "classes": np.array(["a", "b", "ü"])},
        {"images": images / 255, "labels": labels.astype(str)},
        {"images": images, "labels": labels, "test_images": images, "test_labels": labels},
        {"images": np.asfortranarray(images.transpose(0, 2, 3, 1)), "labels": labels.astype(">i2")},
    )
    seeds = []
    for fields in arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        seeds.append(bundle.npz_parts("x.npz", buffer.getvalue()))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays[0])
    return (*seeds, {"x.npz": buffer.getvalue()})


def encoded(form: str, mode: str = "L", size: tuple[int, int] = (5, 4), **options: Any) -> bytes:
    """A small picture in a file format."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], max(bands, 1)))
    image = Image.fromarray(pixels[:, :, 0].astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture() -> Seeds:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey, alpha = encoded("PNG"), encoded("PNG", "RGBA")
    return (
        {"x.png!": grey},
        {"x.png!": alpha, "y.png!": grey},
        {"x.png!": encoded("PNG", "P", transparency=0)},
        {"x.png!": encoded("PNG", "I;16")},
        {"x.png!": encoded("PNG", "1")},
        {"x.png": grey},
        {"x.jpg": encoded("JPEG", "RGB")},
        {"x.jpg": encoded("JPEG", "L", progressive=True, exif=exif)},
        {"x.jpeg": encoded("JPEG", "CMYK")},
        {"x.bmp": encoded("BMP", "RGB")},
        {"x.bmp": encoded("BMP", "P")},
        {"x.webp": encoded("WEBP", "RGBA", lossless=True)},
        {"x.webp": encoded("WEBP", "RGB", quality=30), "x.bmp": encoded("BMP", "1")},
    )


@cache
def pictures_base() -> bundle.Parts:
    return {f"{name}.png": encoded("PNG", size=(4, 4)) for name in "abcd"}


def table() -> Seeds:
    rows = "a.png,ash\nb.png,beech\nc.png,ash\nd.png,beech\n"
    return (
        {"x.csv": f"path,label\n{rows}".encode()},
        {"x.csv": b"path,label,split\na.png,1,train\nb.png,2,\nc.png,1,test\nd.png,2,val\n"},
        {"x.csv": '\ufefflabel;x,"path",LABEL\r\n1,"a.png",ü\r\n2, b.png ,v\r\n'.encode()},
        {"x.tsv": f"path,label\n{rows}".replace(",", "\t").encode()},
        {"x.csv": f"path,label\n{rows}".encode(), "a.png": b"damaged"},
    )


def folder() -> Seeds:
    small = encoded("PNG", size=(4, 4))
    flat = {f"{name}/{i}.png": small for name in CLASSES for i in range(2)}
    split = {f"{part}/{c}/0.png": small for part in ("train", "val") for c in CLASSES}
    photo = encoded("JPEG", size=(4, 4))
    tiny = {f"train/{name}/images/0.JPEG": photo for name in CLASSES}
    annotations = b"v.png\tash\t0\t0\nw.png\tbeech\t1\t1\n"
    shown = {"val/images/v.png": small, "val/images/w.png": small}
    return (
        flat,
        {**flat, "words.txt": b"ash\tAsh, tree\nbeech\tBeech\n", ".DS_Store": b"x"},
        split,
        {**tiny, "val/val_annotations.txt": annotations, **shown},
        {"a b/x y.png": small, "\u00fc/\u00e9.jpg": photo, "ash.txt": b"", ".hidden/x": b""},
    )


def tar_of(members: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar without the zeros at its end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        length = tar.offset
    return buffer.getvalue()[:length]


def pairs(numbers: range, folder: str = "") -> bundle.Parts:
    """Images of two classes as members of a shard."""
    small = encoded("PNG", size=(4, 4))
    found = {}
    for number in numbers:
        found |= {f"{folder}{number}.png": small, f"{folder}{number}.cls": b"%d" % (number % 2)}
    return found


def shards() -> Seeds:
    few = tar_of(pairs(range(4)))
    long = "\u00fc" * 60 + "/"
    named = {"classes.txt": b"ash\nbeech\n", "notes.txt": b"x"}
    return (
        {"x.tar!": few},
        {"train-0.tar!": few, "train-1.tar!": tar_of(pairs(range(2))), "test-0.tar!": few, **named},
        {"train/0.tar!": few, "val/0.tar!": few},
        {"x.tar!": tar_of(pairs(range(4), long), tarfile.PAX_FORMAT)},
        {"x.tar!": tar_of(pairs(range(4), long), tarfile.GNU_FORMAT)},
        {"x.tar": few + bundle.TAR_END},
    )


def looping_shards() -> Seeds:
    """Shards whose headers say a negative size, or are cut off."""
    few = tar_of(pairs(range(2)))
    back = bytearray(tar_of({"x": b""}))
    back[bundle.TAR_SIZE] = b"\xff" * 10 + b"\xfe\0"
    return ({"x.tar!": few + back}, {"x.tar": few}, {"x.tar!": few + b"x" * 100})


def arrays() -> Seeds:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 1, 3, 3), np.uint8), np.arange(8) % 2
    words = np.asarray(CLASSES)[labels]
    folders: tuple[dict[str, Any], ...] = (
        {"images": images, "labels": labels},
        {"images": images[:, 0], "labels": words},
        {"images": (images / 255).astype(np.float32), "labels": labels.astype(np.float32)},
        {"images": images.transpose(0, 2, 3, 1).copy(), "labels": labels[:, None].astype(">i2")},
        {"images": images, "labels": labels, "test_images": images, "test_labels": labels},
    )
    seeds = []
    for found in folders:
        parts: bundle.Parts = {}
        for name, array in found.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            parts |= bundle.npy_parts(f"{name}.npy", buffer.getvalue())
        seeds.append(parts)
    seeds[0]["classes.txt"] = b"ash\nbeech\n"
    whole = written(lambda folder: bundle.write(seeds[2], folder))
    return (*seeds, whole)


def lying_arrays() -> Seeds:
    """Arrays that would be larger than any machine, or whose header Python cannot parse."""
    good = arrays()[1]
    sides = (f"({6}, {2**32}, {2**32})", "(True, 3, 3)", f"({10**22}, 3, 3)")
    headers = [f"{{'descr': '|u1', 'fortran_order': False, 'shape': {side}}}" for side in sides]
    return tuple(
        {**good, f"{name}.npy!header": text.encode()}
        for name in ("images", "labels")
        for text in (*headers, "((((", "'''", "{[]: 3}")
    )


# models and runs


def models() -> Seeds:
    from convexcnn.models import save_model
    from small import stripes
    from tiny_models import TINY_BLOCKS, TINY_NEURONS, convex, layerwise, non_convex

    images, labels = stripes(12, n_classes=2)
    trained = (
        convex(betas=0.1, n_gates=2),
        convex(betas=0.1, n_gates=2, formulation="relu", regulariser="group"),
        non_convex(n_filters=2),
        layerwise(blocks=TINY_BLOCKS[:2]),
        layerwise(blocks=TINY_NEURONS),
    )
    seeds = []
    for model in trained:
        found = written(lambda folder, m=model: save_model(m.fit(images, labels), folder))
        seeds.append({name: part for name, part in found.items() if name != "README.md"})
    return tuple(seeds)


def settings() -> Seeds:
    texts = (
        "seed = 0\nn_gates = 16\nbetas = [0.1, 0.01]\nloss = 'squared'\nwhiten = 0\n",
        "formulation = 'relu'\nregulariser = \"group\"\nbetas = 1e-3\nlimit = 100\n",
        "formulation = 'non-convex'\nn_filters = 8\nbeta = 0.1\nskip_bad = true\n",
        "model = 'layerwise'\nblocks = 'small'\nbaselines = 'alexnet,vgg11'\nbudget = 1.5\n",
        "model = 'layerwise'\nblocks = [{n_gates = 4, betas = 0.1}, {head = 'patches'}]\n",
        "device = 'cpu'\nmemory_gb = 2.5\nsolver = 'fista'\ntolerance = 1e-4\naugment = 'flip'\n",
    )
    return tuple({"x.toml": text.encode()} for text in texts)


FINGERPRINT = "0" * 64


def tables_of_settings() -> Seeds:
    """Settings that are not flat."""
    return ({"x.toml": b"[table]\nx = 1979-05-27T07:32:00Z\n"},)


def checkpoints() -> Seeds:
    """The first block of two stacks, as it is kept."""
    from small import stripes
    from tiny_models import TINY_BLOCKS, TINY_NEURONS, layerwise

    images, labels = stripes(12, n_classes=2)
    seeds = []
    for stack in (TINY_BLOCKS[:2], TINY_NEURONS):

        def train(folder: Path, blocks: Any = stack) -> None:
            folder.mkdir()
            layerwise(blocks=blocks, checkpoint=folder).fit(images, labels)

        found = written(train)
        kept = {name: part for name, part in found.items() if name.startswith("block1.")}
        description = json.loads(kept["block1.json"]) | {"fingerprint": FINGERPRINT}
        kept["block1.json"] = json.dumps(description).encode()
        plan = {"fingerprint": FINGERPRINT, "steps": 12}
        seeds.append({**kept, "block1.plan.json": json.dumps(plan).encode()})
    return tuple(seeds)


def runs() -> Seeds:
    """Small runs of a fit, a stack and a comparison, with their tensors."""
    from safetensors.numpy import save_file

    classes = ("ash", "beech")
    shape = (1, 4, 4)
    results: list[tuple[Any, Any]] = [
        (synthetic_runs.fit_result(classes), None),
        (synthetic_runs.stack_result(), None),
        (synthetic_runs.compare_result(1, classes), synthetic_runs.compare_metrics(1, 40, 20)),
    ]
    seeds = []
    for number, (result, metrics) in enumerate(results):
        k = len(result["data"]["classes"])
        rng = np.random.default_rng(number)
        filters = {
            "convex": rng.normal(size=(k, 2, 1, 2, 2)).astype(np.float32),
            "convex_strength": np.ones((k, 2), np.float32),
            "non_convex": rng.normal(size=(3, 1, 2, 2)).astype(np.float32),
        }

        def write(folder: Path, r: Any = result, m: Any = metrics, f: Any = filters) -> None:
            synthetic_runs.write_run_folder(folder, r, m, f)
            if len(r["data"]["classes"]) == 10:
                found = synthetic_runs.examples(2, shape, blocks=2)
                liked = synthetic_runs.maximisers(2, 10, shape)
                save_file(found | liked, folder / "explanations.safetensors")

        seeds.append(written(write))
    return tuple(seeds)


def archives() -> Seeds:
    """Archives as they should be, in three dialects."""
    forms = (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    names = ("a/b.bin", "\u00fc", "folder/")
    return tuple(_archive(name, form) for name, form in zip(names, forms, strict=True))


def escapes() -> Seeds:
    """Archives with a member that points elsewhere."""
    return (
        _archive("../escaped", tarfile.PAX_FORMAT),
        _archive("link", tarfile.GNU_FORMAT, tarfile.SYMTYPE, "/etc"),
        _archive("link", tarfile.USTAR_FORMAT, tarfile.LNKTYPE, "../x"),
    )


def _archive(name: str, form: int, kind: bytes = tarfile.REGTYPE, target: str = "") -> bundle.Parts:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.DIRTYPE if name.endswith("/") else kind, target
        info.size = 5 if info.isreg() else 0
        tar.addfile(info, io.BytesIO(b"12345"))
    # its two empty blocks at the end, without the padding to ten kilobytes
    return {"x.tar.gz!": buffer.getvalue().rstrip(b"\0") + bytes(1024)}
