"""What of DATA is not among the images of a command, said to the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convexcnn.cli.console import Console
    from convexcnn.data import ImageDataset


def note_left_out(dataset: ImageDataset, console: Console) -> None:
    """Name the images that could not be read, and count what lies beside images and is none."""
    from convexcnn.data.decode import SUFFIXES

    for path in dataset.skipped:
        console.note(f"Skipped: {path}")
    if beside := dataset.passed_over:
        many = "files or folders" if len(beside) > 1 else "file or folder"
        console.note(
            f"Passed over: {len(beside)} {many} beside the pictures, such as {beside[0]}; "
            f"read are {', '.join(SUFFIXES)}"
        )
