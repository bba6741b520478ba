"""Run folders made of synthetic results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from synthetic_runs import write_run_folder


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run folder from its result, log, filters and config."""
    return partial(write_run_folder, tmp_path / "run")
