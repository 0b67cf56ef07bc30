"""Keyframes, and a stand-in for sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sample.batches import making


@pytest.fixture
def made(monkeypatch):
    """The requests whose frames were made: grey, of their seed's level."""
    requests = []

    def generate(asked, together, model, plan, progress):
        (request,) = asked
        requests.append(request)
        if request.settings.seed == 99:
            raise FloatingPointError("latents are not finite after evaluation 1 of 1")
        height, width, _ = request.keyframes[0].shape
        frames = np.full((request.settings.num_frames, height, width, 3), request.settings.seed, np.uint8)
        frames[:, 0, 0] = np.arange(len(frames))[:, None] + 10 * len(requests)
        return [(frames, [np.zeros((1, 1, 1, 4))])]

    monkeypatch.setattr(making, "generate_together", generate)
    monkeypatch.setattr(making.planned_model, "load_for_works", lambda *a, **k: (None, dict.fromkeys(a[3])))
    return requests


@pytest.fixture
def noise(folder):
    """Writes `n.npz`, draws of one level for a clip of 3 frames of 32x16 without recurrence."""
    shapes = {"augmentation": (16, 32, 3), "initial": (3, 4, 8, 6), "recurrence": (0, 3, 4, 8, 6)}

    def write(level):
        arrays: dict[str, Any] = {name: np.full(shape, level, np.float32) for name, shape in shapes.items()}
        np.savez(folder / "n.npz", **arrays)

    return write


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with keyframes 1.png, ..., 4.png of different colours; the commands run elsewhere."""
    for k in range(1, 5):
        Image.new("RGB", (64, 32), (50 * k, 0, 0)).save(tmp_path / f"{k}.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path
