"""A good data set and a good model, which bad inputs are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bad_inputs import picture

from convexcnn.cli.run_folder import write_json, write_toml
from convexcnn.models import save_model
from small import stripes
from tiny_models import convex


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths by name: {data}, {run}, {picture}, all good, and {here}, the folder they are in."""
    here = tmp_path_factory.mktemp("good")
    images, labels = stripes(60)
    np.savez(here / "data.npz", images=images, labels=labels)
    save_model(convex(betas=0.1).fit(images, labels), here / "run")
    write_toml(here / "run" / "config.toml", {"seed": 0})
    write_json(here / "run" / "result.json", {"format": 1, "kind": "fit"})
    picture(here / "picture.png")
    return {
        "here": here,
        "data": here / "data.npz",
        "run": here / "run",
        "picture": here / "picture.png",
    }
