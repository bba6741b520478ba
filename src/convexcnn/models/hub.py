"""Saved models on the Hugging Face Hub: the folder that ``save_model`` writes, up and down."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convexcnn.environment import import_extra
from convexcnn.errors import RunError
from convexcnn.models.base import ImageClassifier
from convexcnn.models.io import MODEL_FILES, load_model, save_model


def push_to_hub(
    model: ImageClassifier,
    repo_id: str,
    *,
    private: bool = True,
    message: str = "Upload a model of convexcnn",
) -> str:
    """Save a model to a repository of the Hub, which is made if it is not there.

    Args:
        model: fitted.
        repo_id: ``user/name``. Who you are is huggingface_hub's affair (``hf auth login``).
        private: whether a new repository is private; one that is there stays as it is.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        RunError: huggingface_hub is not installed, the model is not fitted, or the upload failed.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder, _named(repo_id, "be pushed", hub):
        save_model(model, folder)
        api = hub.HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)


def load_from_hub(repo_id: str, *, revision: str | None = None) -> ImageClassifier:
    """Fetch a model from the Hub and load it as ``load_model`` does.

    Args:
        repo_id: ``user/name``.
        revision: branch, tag or commit; None for the newest.

    Raises:
        RunError: huggingface_hub is not installed, the download failed, or the files are no model.
    """
    hub = _hub()
    with _named(repo_id, "be fetched", hub):
        folder = hub.snapshot_download(repo_id, revision=revision, allow_patterns=[*MODEL_FILES])
    return load_model(Path(folder))


def _hub() -> Any:
    return import_extra("huggingface_hub", "hub", "the Hugging Face Hub")


@contextmanager
def _named(repo_id: str, what: str, hub: Any) -> Iterator[None]:
    """Turn the Hub's errors into ours, in one line."""
    try:
        yield
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"{repo_id} cannot {what} ({reason}); check its name and 'hf auth whoami'"
        ) from error
