"""Where official data files are looked for, and where downloads go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from convexcnn.data.arguments import as_path

ROOT_VARIABLE = "CONVEXCNN_DATA"


@dataclass(frozen=True)
class DataRoot:
    """The folder that holds official data sets.

    Args:
        folder: the folder itself.
        download: whether files that are missing may be downloaded into it.
        chosen: whether the caller named the folder, so that no other place is searched.
    """

    folder: Path
    download: bool = False
    chosen: bool = True

    @classmethod
    def resolve(cls, root: str | Path | None = None, download: bool = False) -> DataRoot:
        """``root``, else the environment's CONVEXCNN_DATA, else ~/.cache/convexcnn."""
        if root is not None:
            return cls(as_path("root", root), download)
        if os.environ.get(ROOT_VARIABLE):
            folder = as_path(ROOT_VARIABLE, os.environ[ROOT_VARIABLE])
            return cls(folder, download, chosen=False)
        return cls(Path.home() / ".cache" / "convexcnn", download, chosen=False)

    def places(self, subfolders: Iterable[str], elsewhere: Iterable[Path] = ()) -> list[Path]:
        """Folders to search: each subfolder, the root itself, then (root not named) elsewhere."""
        inside = [self.folder / name for name in subfolders]
        return [*inside, self.folder, *(() if self.chosen else elsewhere)]

    def advice(self, what: str, subfolders: Iterable[str]) -> str:
        """One line for an official data set that is not there."""
        looked = " or ".join(f"{name}/" for name in subfolders)
        return (
            f"{what} is not in {self.folder} (looked for {looked} there); say --download "
            "(download=True) to fetch it, or name the folder that has it with --root (root=) or "
            f"{ROOT_VARIABLE}"
        )
