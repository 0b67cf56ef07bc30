"""Checkpoints that tests of conversions read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import svd_folders

from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import save_backward


@pytest.fixture(scope="session")
def trained_backward(model, base, tmp_path_factory) -> Path:
    """Backward weights of a training run from `model`'s UNet; tests must not change them."""
    folder = tmp_path_factory.mktemp("run") / "backward"
    save_backward(folder, svd_folders.trained(base), base, {"sources": read_info(model).sources})
    return folder


@pytest.fixture(scope="session")
def forward_only(model, tmp_path_factory) -> Path:
    """`model` without its backward weights; tests must not change it."""
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("forward") / "model"))
    shutil.rmtree(folder / "backward")
    data = json.loads((folder / "config.json").read_text())
    files = {name: size for name, size in data["files"].items() if not name.startswith("backward/")}
    (folder / "config.json").write_text(json.dumps(data | {"files": files, "backward": None}))
    return folder
