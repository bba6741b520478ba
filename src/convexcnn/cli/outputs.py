"""Where commands may write: never over what they read, over a run, or over what is no file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from convexcnn.cli.run_folder import LOCK_FILE, METRICS_FILE, RESULT_FILE, SETTINGS_FILE
from convexcnn.errors import RunError
from convexcnn.files import require_parent

PARTS_OF_RUNS = {
    SETTINGS_FILE,
    METRICS_FILE,
    RESULT_FILE,
    LOCK_FILE,
    "model.safetensors",
    "config.json",
    "model.json",
    "README.md",
    "filters.safetensors",
    "explanations.safetensors",
    "report.html",
    "figures",
    "units",
    "blocks",
    "baselines",
}
"""Names in a run folder that are the run's own; others may be written beside them."""


def check_file(path: Path) -> Path:
    """Return where a file lies, through links, if a command may write it at all.

    Raises:
        RunError: its folder is not there, or it is a part of a run.
    """
    require_parent(path)
    target = path.resolve()
    for folder in target.parents:
        if target.relative_to(folder).parts[0] in PARTS_OF_RUNS and _holds_run(folder):
            raise RunError(f"{path} is a part of the run {folder}; name another file")
    return target


def check_folder(path: Path, option: str, inputs: Iterable[Path | str]) -> None:
    """Refuse a folder for results that lies in one of the folders that are read.

    What is written there would be read as a part of them next time.

    Raises:
        RunError: it names both.
    """
    target = path.resolve()
    for given in inputs:
        folder = Path(given).expanduser()
        if folder.is_dir() and target.is_relative_to(folder.resolve()):
            raise RunError(
                f"{path} lies in {given}, which is read; name a folder outside of it with {option}"
            )


def folders_read(data: str) -> list[str]:
    """The folder that DATA is, unless it is a name."""
    from convexcnn.data.load import named_dataset

    return [] if named_dataset(data) else [data]


def _holds_run(folder: Path) -> bool:
    """Whether a run, an unfinished one, or a saved model lies in a folder."""
    inside = {name for name in PARTS_OF_RUNS if (folder / name).is_file()}
    return any(
        inside >= needed
        for needed in (
            {SETTINGS_FILE, RESULT_FILE},
            {SETTINGS_FILE, LOCK_FILE},
            {"model.safetensors", "config.json"},
            {"model.safetensors", "model.json"},
        )
    )
