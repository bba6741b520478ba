"""Downloads from a server on this machine: checked, whole or not at all, and only when asked."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from convexcnn.data import cifar, download, load_dataset, registry
from convexcnn.data.cifar import CIFAR10
from convexcnn.data.download import RemoteFile, fetch, fetch_archive, unpack
from convexcnn.data.idx import FILES, MNIST
from convexcnn.data.root import DataRoot
from convexcnn.errors import DataError
from official_files import write_cifar10_binary, write_idx_set


class Quiet(SimpleHTTPRequestHandler):
    """A file server that does not write to the terminal."""

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """Its folder and its address."""
    pytest.importorskip("pooch")
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def md5(path: Path) -> str:
    return f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def cifar10_on_server(server, tmp_path):
    """CIFAR-10 whose archive lies on the server."""
    folder, address = server
    write_cifar10_binary(tmp_path / "made" / "cifar-10-batches-bin")
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    archive = folder / "cifar-10-binary.tar.gz"
    remote = RemoteFile(f"{address}/{archive.name}", md5(archive))
    binary, python = CIFAR10.versions
    return replace(CIFAR10, versions=(replace(binary, archive=remote), python))


def test_cifar10_is_downloaded_unpacked_and_read(cifar10_on_server, tmp_path):
    root = tmp_path / "new" / "root"
    dataset = cifar10_on_server.load(DataRoot(root, download=True))
    assert len(dataset.train) == 100
    assert dataset.source == str(root / "cifar-10-batches-bin")
    expected = sorted(f"cifar-10-batches-bin/{name}" for name in CIFAR10.versions[0].files)
    assert everything_in(root) == expected
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-bin"]


def test_what_is_there_is_not_downloaded_again(cifar10_on_server, tmp_path, monkeypatch):
    root = DataRoot(tmp_path / "root", download=True)
    cifar10_on_server.load(root)
    monkeypatch.setattr(cifar, "fetch_archive", None)
    assert len(cifar10_on_server.load(root).train) == 100


def test_an_incomplete_folder_is_completed(cifar10_on_server, tmp_path):
    root = tmp_path / "root"
    cifar10_on_server.load(DataRoot(root, download=True))
    (root / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    assert cifar10_on_server.find(DataRoot(root)) is None
    assert len(cifar10_on_server.load(DataRoot(root, download=True)).test) == 20


def test_nothing_is_downloaded_unless_asked(cifar10_on_server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "fetch_archive", None)
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*say --download \(download=True\)"):
        cifar10_on_server.load(DataRoot(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_a_wrong_checksum_leaves_nothing_behind(cifar10_on_server, tmp_path):
    binary, python = cifar10_on_server.versions
    remote = replace(binary.archive, checksum="md5:" + "0" * 32)
    wrong = replace(cifar10_on_server, versions=(replace(binary, archive=remote), python))
    with pytest.raises(DataError, match="checksum of the download differs from the official one"):
        wrong.load(DataRoot(tmp_path / "root", download=True))
    assert everything_in(tmp_path / "root") == []
    assert list((tmp_path / "root").iterdir()) == []


def test_mnist_is_downloaded_through_load_dataset(server, tmp_path, monkeypatch):
    folder, address = server
    write_idx_set(folder)
    remotes = tuple(RemoteFile(f"{address}/{file}", md5(folder / file)) for file in FILES)
    here = replace(registry.dataset_registry["mnist"], source=replace(MNIST, downloads=remotes))
    monkeypatch.setitem(registry.dataset_registry, "mnist", here)
    dataset = load_dataset("mnist", root=tmp_path / "root", download=True)
    np.testing.assert_array_equal(dataset.train.labels, np.arange(30) % 10)
    assert everything_in(tmp_path / "root") == sorted(f"MNIST/raw/{file}" for file in FILES)


def test_a_broken_second_file_leaves_the_first_for_the_next_attempt(server, tmp_path):
    folder, address = server
    write_idx_set(folder)
    remotes = tuple(RemoteFile(f"{address}/{file}", md5(folder / file)) for file in FILES)
    (folder / FILES[1]).write_bytes(b"changed")
    with pytest.raises(DataError, match=f"{FILES[1]}: the checksum"):
        replace(MNIST, downloads=remotes).load(DataRoot(tmp_path / "root", download=True))
    assert everything_in(tmp_path / "root") == [f"MNIST/raw/{FILES[0]}"]


def test_an_address_that_cannot_be_read_is_named_with_the_reason(server, tmp_path):
    (tmp_path / "file").write_text("x")
    cases = [
        (f"{server[1]}/nothing.gz", tmp_path / "root", "404 File not found"),
        ("http://127.0.0.1:1/x.gz", tmp_path / "root", "ConnectionError"),
        (f"{server[1]}/x.gz", tmp_path / "file" / "root", "Not a directory"),
    ]
    for url, folder, reason in cases:
        with pytest.raises(DataError, match=rf"{url}: could not be downloaded \({reason}\);"):
            fetch(RemoteFile(url, "md5:" + "0" * 32), folder)
    assert everything_in(tmp_path / "root") == []


def test_without_pooch_the_command_to_install_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'convexcnn\[data\]'; or fetch"):
        fetch_archive(CIFAR10.versions[0].archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_root_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written to"):
        fetch_archive(CIFAR10.versions[0].archive, tmp_path / "file" / "root")


def write_tar(path: Path, **members: tarfile.TarInfo | bytes) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(content)
    return path


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "work").mkdir()
    return partial(write_tar, tmp_path / "work" / "a.tar.gz")


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped"])
def test_members_that_lead_out_of_the_folder_are_refused(archive, tmp_path, name):
    path = archive(**{"good.bin": b"good", name: b"bad"})
    with pytest.raises(DataError, match=r"cannot be unpacked .*outside"):
        unpack(path, tmp_path / "root")
    assert everything_in(tmp_path) == ["work/a.tar.gz"]


def test_members_with_absolute_paths_stay_in_the_folder(archive, tmp_path):
    path = archive(**{str(tmp_path / "escaped"): b"bad"})
    unpack(path, tmp_path / "root")
    assert not (tmp_path / "escaped").exists()
    assert len(everything_in(tmp_path / "root")) == 1


def test_links_are_refused(archive, tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(DataError, match="neither a file nor a folder"):
        unpack(archive(link=link), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 1_000_000)
    path = archive(a=bytes(600_000), b=bytes(600_000))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match="unpacks to more than 1000000 bytes"):
        unpack(path, tmp_path / "root")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_truncated_archive_is_refused(archive, tmp_path):
    path = archive(a=np.random.default_rng(0).bytes(100_000))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked .*nothing was kept"):
        unpack(path, tmp_path / "root")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_official_checksums_are_well_formed():
    remotes = [version.archive for version in (*CIFAR10.versions, *cifar.CIFAR100.versions)]
    for source in ("mnist", "fashion-mnist"):
        remotes += registry.dataset_registry[source].source.downloads
    for remote in remotes:
        algorithm, digest = remote.checksum.split(":")
        assert algorithm == "md5"
        assert len(bytes.fromhex(digest)) == 16
        assert remote.url.startswith("https://")
    assert len({remote.checksum for remote in remotes}) == len(remotes) == 12
