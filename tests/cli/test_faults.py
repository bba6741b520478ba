"""Full disks, lost shards and damaged blocks at the command line: named, and nothing half-done."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from commands import Done, typed
from small import stripes

STACK = ["--model", "layerwise", "--n-gates", "3", "--no-certificate"]
TWO_LAYER = ["--n-gates", "2", "--gates", "patches", "--beta", "0.1", "--no-certificate"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of arrays."""
    folder = tmp_path_factory.mktemp("data") / "arrays"
    folder.mkdir()
    images, labels = stripes(80)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


def fit(data: Path, out: Path, *options: str) -> Done:
    return typed("fit", data, "--out", out, *options)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full, a file cannot grow any more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named_and_leaves_no_run(data: Path, tmp_path: Path) -> None:
    with files_of_at_most(5000):
        done = fit(data, tmp_path / "run", *TWO_LAYER)
    assert done.code == 1
    assert "File too large" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_full_disk_takes_no_finished_block_of_a_stack(data: Path, tmp_path: Path) -> None:
    assert fit(data, tmp_path / "whole", *STACK).code == 0
    with files_of_at_most(8000):  # reached by the log, in block 2
        done = fit(data, tmp_path / "run", *STACK)
    assert done.code == 1
    assert "File too large" in done.err
    assert not (tmp_path / "run").exists()
    kept = {path.name for path in (tmp_path / "run.partial" / "blocks").iterdir()}
    assert "block1.safetensors" in kept
    assert not any(name.startswith(".") for name in kept)
    done = fit(data, tmp_path / "run", *STACK)
    assert done.code == 0
    assert "Continuing" in done.err
    found, expected = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole"))
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_small_disk_is_named_and_leaves_no_run(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root may not mount a small disk here")
    try:
        done = fit(data, disk / "run", *TWO_LAYER)
        assert done.code == 1
        assert "No space left on device" in done.err
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.thorough
@pytest.mark.filterwarnings("always:block 1 that was kept")
def test_a_damaged_block_is_named_and_trained_again(data: Path, tmp_path: Path) -> None:
    with files_of_at_most(8000):
        assert fit(data, tmp_path / "run", *STACK).code == 1
    block = tmp_path / "run.partial" / "blocks" / "block1.safetensors"
    block.write_bytes(block.read_bytes()[:-100])
    done = fit(data, tmp_path / "run", *STACK)
    assert done.code == 0
    assert "Warning: block 1 that was kept in" in done.err
    assert "is damaged" in done.err


@pytest.mark.thorough
def test_half_a_line_of_the_log_does_not_spoil_the_report(data: Path, tmp_path: Path) -> None:
    with files_of_at_most(5000):
        assert fit(data, tmp_path / "run", *STACK).code == 1
    with (tmp_path / "run.partial" / "metrics.jsonl").open("a") as log:
        log.write('{"phase": "blo')
    assert fit(data, tmp_path / "run", *STACK).code == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["phase"] for line in lines)


def test_the_shards_of_a_run_may_have_damaged_images(tmp_path: Path) -> None:
    images, labels = stripes(40)
    with tarfile.open(tmp_path / "set-000000.tar", "w") as archive:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image[0]).save(buffer, "PNG")
            content = b"damaged" if number == 7 else buffer.getvalue()
            for name, part in ((f"{number}.png", content), (f"{number}.cls", b"%d" % label)):
                info = tarfile.TarInfo(name)
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    shards = tmp_path / "set-000000.tar"
    done = fit(shards, tmp_path / "run", *TWO_LAYER)
    assert done.code == 1
    assert f"{shards}: 7.png: cannot be read as an image" in done.err
    done = fit(shards, tmp_path / "run", *TWO_LAYER, "--skip-bad")
    assert done.code == 0
    assert f"Skipped: {shards}: 7.png" in done.err
    shards.unlink()
    done = fit(shards, tmp_path / "other", *TWO_LAYER)
    assert done.code == 1
    assert "no data set, folder or file" in done.err


def fit_in_process(data: Path, out: Path, budget: float, *options: str) -> dict[str, int]:
    """Train in a process of its own; return its memory, which no other test has a part in."""
    command = [sys.executable, "-m", "convexcnn", "fit", str(data), "--out", str(out)]
    command += ["--memory-gb", str(budget), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    memory: dict[str, int] = json.loads((out / "result.json").read_text())["memory_bytes"]
    return memory


@pytest.mark.thorough
def test_the_memory_that_a_run_took_stands_beside_its_budget(data: Path, tmp_path: Path) -> None:
    memory = fit_in_process(data, tmp_path / "run", 1.2, *TWO_LAYER)
    assert memory["budget"] == 1_200_000_000
    assert 100e6 < memory["anonymous"] < memory["resident"] <= memory["budget"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [TWO_LAYER, ["--model", "layerwise", "--n-gates", "8"]])
def test_three_times_more_images_than_memory_are_trained_on(
    options: list[str], tmp_path: Path
) -> None:
    """3.6 GB of images in 1.2 GB, Python and torch included."""
    folder, count, side = tmp_path / "arrays", 18_400, 256
    folder.mkdir()
    pattern = np.random.default_rng(0).integers(0, 256, (400, 3, side, side), np.uint8)
    pattern[::2] //= 2
    shape = count, 3, side, side
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for start in range(0, count, len(pattern)):
        images[start : start + len(pattern)] = pattern
    del images
    np.save(folder / "labels.npy", np.arange(count) % 2)
    budget = 1.2
    assert (folder / "images.npy").stat().st_size > 3 * 1e9 * budget
    if options is TWO_LAYER:
        options = [*options, "--filter-size", "32", "--stride", "32", "--augment", "none"]
    else:
        options = [*options, "--augment", "none", "--budget", "1"]
    memory = fit_in_process(folder, tmp_path / "run", budget, *options)
    assert memory["resident"] <= memory["budget"]
