"""Fetch official files, only when asked: streamed, checked, in place whole or not at all."""

from __future__ import annotations

import os
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from convexcnn.errors import DataError

MAX_UNPACKED_BYTES = 2 * 2**30
"""No official archive unpacks to more than this."""

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """An official file on the web.

    Args:
        url: where it is.
        checksum: ``md5:`` or ``sha256:`` and the published hexadecimal digest.
    """

    url: str
    checksum: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Download a file into a folder; a file there with the right checksum is kept as it is.

    Args:
        remote: what to fetch.
        folder: where to put it; made if missing.

    Returns:
        The path of the file.

    Raises:
        DataError: pooch is not installed, the address cannot be read, or the checksum differs;
            nothing is left behind then.
    """
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            "downloading needs the package pooch: pip install 'convexcnn[data]'; or fetch (and "
            f"unpack) {remote.url} yourself and name its folder with --root"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
        path = pooch.retrieve(
            remote.url, remote.checksum, remote.file_name, folder, downloader=downloader
        )
    except OSError as error:
        raise DataError(
            f"{remote.url}: could not be downloaded ({_reason(error)}); check the connection, or "
            "fetch (and unpack) it yourself and name its folder with --root"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{remote.url}: the checksum of the download differs from the official one "
            f"({remote.checksum}); nothing was kept. Try again later"
        ) from error
    return Path(path)


def _reason(error: OSError) -> str:
    """What went wrong in few words: the server's answer, the system's, or the kind of error."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    return error.strerror or type(error).__name__


def fetch_archive(remote: RemoteFile, folder: Path) -> None:
    """Download a .tar.gz and unpack it into a folder; the archive itself is not kept.

    Args:
        remote: the archive.
        folder: gets the archive's folders and files, each whole or not at all; made if missing.

    Raises:
        DataError: as ``fetch`` and ``unpack``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workspace = tempfile.TemporaryDirectory(dir=folder, prefix=".download-")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror})") from error
    with workspace:
        unpack(fetch(remote, Path(workspace.name)), folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz beside itself, then move every file into a folder.

    Args:
        archive: the .tar.gz.
        folder: gets its folders and files, if all of them can be unpacked.

    Raises:
        DataError: the archive is damaged, too large, or has members that point outside itself.
    """
    with tempfile.TemporaryDirectory(dir=archive.parent) as workspace:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                _extract_bounded(tar, Path(workspace))
        except (
            tarfile.TarError,
            EOFError,
            OSError,
            OverflowError,
            ValueError,
            zlib.error,
        ) as error:
            raise DataError(
                f"{archive.name}: cannot be unpacked ({error}); nothing was kept. Fetch it again"
            ) from error
        for file in sorted(Path(workspace).rglob("*")):
            if file.is_file():
                target = folder / file.relative_to(workspace)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)


def _extract_bounded(tar: tarfile.TarFile, folder: Path) -> None:
    """Extract members one by one, refusing the first that goes over the total."""
    total = 0
    for member in tar:
        total += member.size
        if total > MAX_UNPACKED_BYTES:
            raise tarfile.TarError(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        if not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is neither a file nor a folder")
        tar.extract(member, folder, filter="data")
