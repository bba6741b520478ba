"""What is fuzzed: every reader of the library with its sound inputs and the words of its format.

Readers of data start without torch: what a target alone needs is imported where it is read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bundle
import seeds
from convexcnn.data import load_dataset, read_images
from convexcnn.data.download import unpack
from convexcnn.data.survey import survey_dataset
from convexcnn.errors import ConvexcnnError

MOST_PIXELS = 10_000
"""Of images that a model from a hostile file is tried on."""


def no_parts() -> bundle.Parts:
    return {}


@dataclass(frozen=True)
class Target:
    """A reader, whose imports are done by the first call.

    Args:
        read: called with the folder that holds the files of an input.
        seeds: makes sound inputs.
        base: makes the parts that every input has, unless it brings its own.
        tokens: words of the format.
        hostile: makes inputs that must be refused.
    """

    read: Callable[[Path], object]
    seeds: Callable[[], seeds.Seeds]
    base: Callable[[], bundle.Parts] = no_parts
    tokens: tuple[bytes, ...] = ()
    hostile: Callable[[], seeds.Seeds] = tuple


def each(*attempts: Callable[[], object]) -> None:
    """Try every way to read; the last documented error is raised if none of them works."""
    refusals: list[ConvexcnnError] = []
    for attempt in attempts:
        try:
            attempt()
        except ConvexcnnError as error:
            refusals.append(error)
    if refusals and len(refusals) == len(attempts):
        raise refusals[-1]


def read_table(folder: Path) -> None:
    tables = [path for path in folder.iterdir() if path.suffix in (".csv", ".tsv")]
    each(
        *(lambda table=table: load_dataset(table) for table in tables),
        *(lambda table=table: load_dataset(table, skip_bad=True, limit=2) for table in tables),
        *(lambda table=table: survey_dataset(table) for table in tables),
    )


def read_folder(folder: Path) -> None:
    each(
        lambda: load_dataset(folder),
        lambda: load_dataset(folder, image_size=3, skip_bad=True, limit=4),
        lambda: survey_dataset(folder),
    )


def read_arrays(folder: Path) -> None:
    (folder / "images.npy").touch()  # without it a folder is one of pictures
    each(lambda: load_dataset(folder, limit=4, image_size=2), lambda: survey_dataset(folder))


def read_pictures(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    each(
        lambda: read_images(files),
        lambda: read_images(files, image_size=8, channels=3, skip_bad=True),
        lambda: read_images(files, image_size=(2, 9), channels=1, skip_bad=True),
    )


def read_model(folder: Path) -> None:
    from convexcnn.models import load_model

    model = load_model(folder)
    if np.prod(model.image_shape_, dtype=object) <= MOST_PIXELS:
        with np.errstate(all="ignore"):  # huge weights may overflow
            model.scores(np.zeros((2, *model.image_shape_), np.uint8))


def read_settings(folder: Path) -> None:
    from convexcnn.cli.baseline_training import read_baselines
    from convexcnn.cli.settings import combine, make_estimator

    for path in folder.iterdir():
        settings = combine(path, {})
        make_estimator(settings)
        read_baselines(settings)


def read_checkpoint(folder: Path) -> None:
    from convexcnn.data import ImageScaler
    from convexcnn.models.block_checkpoint import BlockCheckpoint, DamagedCheckpoint
    from convexcnn.patches.stream import ImageStream
    from small import stripes
    from tiny_models import TINY_BLOCKS, TINY_NEURONS

    _seal(folder)
    images, labels = stripes(12, n_classes=2)
    stream = ImageStream(images, labels, 2, ImageScaler.fit(images))
    checkpoint = BlockCheckpoint(folder, lambda number: seeds.FINGERPRINT)
    tensors = folder / "block1.safetensors"
    neurons = tensors.is_file() and b'"filters"' in tensors.read_bytes()[:10_000]

    def load() -> None:
        outcome = checkpoint.load(1, TINY_NEURONS[0] if neurons else TINY_BLOCKS[0], stream)
        if outcome is not None:
            outcome.block.scores(stream.block(np.arange(2))[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedCheckpoint)
        try:
            checkpoint.planned(1)
        except ConvexcnnError:
            load()
            raise
        load()


def _seal(folder: Path) -> None:
    """Put the checksums right, without which nothing behind them would be reached."""
    from convexcnn.files import CHECKSUM, file_checksum, sealed

    tensors = folder / "block1.safetensors"
    for path in (folder / "block1.json", folder / "block1.plan.json"):
        try:
            description = json.loads(path.read_bytes())
            description.pop(CHECKSUM, None)
            if path.name == "block1.json" and tensors.is_file():
                description["tensors"] = file_checksum(tensors)
            text = sealed(description)
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            continue
        path.write_text(text, "utf-8", "surrogatepass")


def read_run(folder: Path) -> None:
    from convexcnn.cli.run_folder import read_result
    from convexcnn.report import build_report

    each(lambda: read_result(folder), lambda: build_report(folder))


def read_archive(folder: Path) -> None:
    inside = folder / "data"
    for archive in sorted(folder.glob("*.tar.gz")):
        try:
            unpack(archive, inside)
        finally:
            strange = [path for path in inside.rglob("*") if path.is_symlink()]
            assert not strange, f"unpacked links: {strange}"


PICKLE_WORDS = (
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"c_codecs\nencode\n", b"cos\nsystem\n", b"\x93", b"\x85R", b"\x86R", b"\x87R", b"tb", b"tR"),
    *(b"}q\0(", b"]q\1(", b"(lp0\n", b"h\0", b"q\0", b"\x94", b"\x88", b"\x89", b"N", b"0", b"2"),
    *(b"K\1", b"J\xff\xff\xff\xff", b"\x8a\xff", b"U\4data", b"U\6labels", b"U\x0blabel_names"),
    *(b"C\0", b"B\xff\xff\xff\x7f", b"X\4\0\0\0name", b"I9\n", b"S'x'\n", b"\x8b", b"\x95", b"."),
)
NPY_WORDS = (
    *(b"'descr': '<f8'", b"'|O'", b"'<U3'", b"'<M8[s]'", b"'<c16'", b"'|V8'", b"[('a', '<i4')]"),
    *(b"'fortran_order': True", b"'shape': (3,)", b"(10000, 100000)", b"()", b"\x93NUMPY\3\0"),
    *(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"L", b"(((", b"{", b"'''", b"\\N", b"-1", b"1e9", b"0x"),
)
PICTURE_WORDS = (
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"eXIf"),
    *(
        b"\xff\xd8",
        b"\xff\xe1\0\x40Exif\0\0",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xda",
        b"VP8X",
        b"ANMF",
    ),
    *(b"MM\0*", b"II*\0", b"BM", b"VP8L", b"ICCP", b"RIFF", b"\x7f\xff\xff\xff", b"\0\1\x86\xa0"),
)
SETTING_WORDS = (
    *(b"n_gates = ", b"betas = ", b"blocks = ", b"filter_size = ", b"seed = ", b"limit = "),
    *(b"nan", b"inf", b"-inf", b"true", b"'x'", b"[1, 'a']", b"{}", b"1979-05-27", b"07:32:00"),
    *(
        b"[a]\n",
        b"[[a]]\n",
        b"a.b = 1\n",
        b"'''",
        b"\\u0000",
        b"1_000",
        b"0xff",
        b"class_weight = ",
    ),
    *(b"callback = 1\n", b"augment = ", b"device = ", b"baselines = ", b"epochs = ", b"pool = "),
)
TENSOR_WORDS = (
    *(b'"dtype":"F32"', b'"F64"', b'"BF16"', b'"I64"', b'"F8_E4M3"', b'"BOOL"', b'"U8"', b'"C64"'),
    *(b'"shape":[]', b'"shape":[0]', b'"data_offsets":[0,0]', b"\0\0\xc0\x7f", b"\0\0\x80\x7f"),
)
TAR_WORDS = (
    *(b"ustar", b"../", b"0", b"1", b"2", b"5", b"L", b"K", b"g", b"x", b"S", b"\x80\0\0\0"),
    *(b"30 path=../../escaped\n", b"20 size=9999999\n", b"777777777777", bytes(512)),
)

SHARD_WORDS = (
    *(*TAR_WORDS, b".cls", b".png", b".tar", b"train", b"test", b"16 size=-1024\n", b"X"),
    *(b"\xff" * 10 + b"\xfe\0", b"\x80" + b"\xff" * 11, b"22 GNU.sparse.major=1\n"),
    *(b"22 GNU.sparse.minor=0\n", b"25 GNU.sparse.map=0,1,2\n", b"21 hdrcharset=BINARY\n"),
)

TARGETS: dict[str, Target] = {
    "cifar-binary": Target(load_dataset, seeds.cifar_binary, seeds.cifar_binary_base),
    "cifar-pickle": Target(load_dataset, seeds.cifar_pickle, seeds.cifar_pickle_base, PICKLE_WORDS),
    "idx": Target(load_dataset, seeds.idx, seeds.idx_base, (b"\0\0\x08\3", b"\x1f\x8b\x08")),
    "npz": Target(lambda folder: load_dataset(folder / "x.npz"), seeds.npz, tokens=NPY_WORDS),
    "table": Target(read_table, seeds.table, seeds.pictures_base, (b"path", b"label", b"split")),
    "folder": Target(read_folder, seeds.folder, tokens=(b"train/", b"val/", b"images/", b".png")),
    "shards": Target(read_folder, seeds.shards, tokens=SHARD_WORDS, hostile=seeds.looping_shards),
    "arrays": Target(read_arrays, seeds.arrays, tokens=NPY_WORDS, hostile=seeds.lying_arrays),
    "picture": Target(read_pictures, seeds.picture, tokens=PICTURE_WORDS),
    "model": Target(read_model, seeds.models, tokens=TENSOR_WORDS),
    "settings": Target(
        read_settings, seeds.settings, tokens=SETTING_WORDS, hostile=seeds.tables_of_settings
    ),
    "checkpoint": Target(read_checkpoint, seeds.checkpoints, tokens=TENSOR_WORDS),
    "run": Target(read_run, seeds.runs, tokens=TENSOR_WORDS),
    "archive": Target(read_archive, seeds.archives, tokens=TAR_WORDS, hostile=seeds.escapes),
}
