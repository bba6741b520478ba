"""Models go to the Hub and come back, with a Hub that is a folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from convexcnn.errors import RunError
from convexcnn.models import load_from_hub, push_to_hub
from convexcnn.models.io import MODEL_FILES


class HubError(Exception):
    """What huggingface_hub raises for an answer of the Hub that is none."""


class FakeApi:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, bool]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        if repo_id.startswith("other/"):
            raise HubError("403 Forbidden:\nnot yours")
        assert exist_ok
        self.calls.append((repo_id, private))
        return f"https://hub.test/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


@pytest.fixture
def api(tmp_path, monkeypatch) -> FakeApi:
    found = FakeApi(tmp_path)

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert set(allow_patterns) == set(MODEL_FILES)
        if not (tmp_path / repo_id).is_dir():
            raise HubError(f"404: {repo_id} at {revision}")
        return str(tmp_path / repo_id)

    hub = SimpleNamespace(
        HfApi=lambda: found,
        errors=SimpleNamespace(HfHubHTTPError=HubError),
        snapshot_download=snapshot_download,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return found


def test_a_model_goes_up_and_comes_down(model, data, api):
    assert push_to_hub(model, "me/stripes") == "https://hub.test/me/stripes"
    assert api.calls == [("me/stripes", True)]
    assert {p.name for p in (api.root / "me/stripes").iterdir()} == set(MODEL_FILES)
    found = load_from_hub("me/stripes")
    np.testing.assert_array_equal(found.scores(data[0]), model.scores(data[0]))


def test_what_fails_is_one_line(model, make, api):
    with pytest.raises(RunError, match=r"other/x cannot be pushed \(403 Forbidden: not yours\)"):
        push_to_hub(model, "other/x")
    with pytest.raises(RunError, match=r"me/none cannot be fetched \(404: me/none at v1\)"):
        load_from_hub("me/none", revision="v1")
    with pytest.raises(RunError, match="not trained"):
        push_to_hub(make(), "me/new")


def test_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"package huggingface_hub .*'convexcnn\[hub\]'"):
        push_to_hub(model, "me/stripes")
