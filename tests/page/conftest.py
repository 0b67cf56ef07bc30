"""Fixtures of the tests of the page."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sample import planned_model
from sample.batches import clip
from sample.page import controls, handlers, models, preview, shown
from sample.page.handlers import Page
from sample.page.jobs import Jobs
from sample.page.options import LOCAL, PORT, PageRequest
from svdjax.loading import find_model


@pytest.fixture(scope="session")
def page_request():
    """Makes a checked command line of `sample.app`: the page of the embedded model, with other fields."""
    fields = {"model": None, "source": find_model(None), "backward": None, "words": (), "memory": None}
    fields |= {"host": LOCAL, "port": PORT, "open": False}
    return lambda **changes: PageRequest(**fields | changes)


@dataclass
class Work:
    """Stands in for `ClipWork`."""

    model: Any
    shapes: Any = "shapes"


class Model(SimpleNamespace):
    """Stands in for a loaded model."""


class Sampler:
    """Stands in for the model and the sampler: three evaluations, each when it is allowed."""

    def __init__(self):
        self.allowed = threading.Semaphore(0)
        self.loaded, self.error, self.before_loading = [], None, lambda: None

    def load(self, source, dtype, memory, settings, sizes, **_):
        self.before_loading()
        self.loaded.append(source.backward.name)
        return Model(config=source.config), dict.fromkeys(sizes)

    def generate(self, request, model, plan, progress, show, warn):
        for done in (1, 2, 3):
            assert self.allowed.acquire(timeout=20)
            if self.error:
                raise self.error
            show(jnp.full((1, 8, 16, 16, 3), done / 3))
            progress(done, 3)
        return np.zeros((8, *request.keyframes[0].shape), np.uint8), [np.zeros((8, 16, 16, 3))]


@pytest.fixture
def sampler(monkeypatch):
    made = Sampler()
    monkeypatch.setattr(planned_model, "load", made.load)
    monkeypatch.setattr(models, "plan_for", lambda *_: None)
    monkeypatch.setattr(models, "ClipWork", lambda model, **_: Work(model))
    monkeypatch.setattr(clip, "generate", made.generate)
    rows = np.zeros((28, 3))
    rows[12:15] = np.eye(3)  # the pixel itself
    monkeypatch.setattr(preview, "map_of", lambda *_: rows)
    monkeypatch.setattr(handlers, "INTERVAL", 0.01)
    monkeypatch.setattr(shown, "SECONDS", 0)
    yield made
    made.allowed.release(1000)


@pytest.fixture
def page(tmp_path, sampler, page_request):
    folder = tmp_path / "page"
    folder.mkdir()
    queue = Jobs()
    yield Page(page_request(), queue, folder)
    sampler.allowed.release(1000)
    queue.close()


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for level, path in enumerate(paths, 50):
        Image.new("RGB", (64, 64), (level, level, 90)).save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="session")
def values():
    """The values of the page's controls."""
    return lambda page, **changes: list((controls.start(page.request) | changes).values())


@pytest.fixture(scope="session")
def wait():
    """Waits for a condition."""

    def until(condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    return until
