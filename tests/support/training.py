"""Helpers of the training tests: a minimal model, clips, the command in this process or another, files of a run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import svd_folders
import videos

from svdjax.checkpoints.orbax_trees import stream_tree, tree_shapes
from svdjax.models import svd
from train import backward
from train.run import checkpoints
from train.steps.step import Step

ROOT = Path(__file__).parents[2]
UNET = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
    "num_attention_heads": 2,
    "num_frames": 3,
}
SMALL_PROGRAMS_TOO = {  # by default, JAX's compilation cache doesn't store small programs
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


_PROGRAMS: dict = {}


def write_source(folder: Path, **unet) -> Path:
    """Write an SVD in diffusers layout; its UNet has one level, with three temporal self-attentions."""
    return svd_folders.enliven(svd_folders.write(folder, unet=UNET | unet))


def write_clips(folder: Path, count: int = 4, frames: int = 6) -> Path:
    """Write animations of moving coloured squares, 24x24."""
    rng = np.random.default_rng(0)
    for i in range(count):
        squares = rng.integers(0, 255, (6, 6, 3), np.uint8)
        moved = [np.kron(np.roll(squares, t, 1), np.ones((4, 4, 1), np.uint8)) for t in range(frames)]
        videos.write_gif(folder / f"c{i}.gif", moved)
    return folder


def arguments(model: Path, data: Path, out: Path, *others: object, **options: object) -> list[str]:
    """A command line; underscores in the names of `options` become dashes, None leaves an option out."""
    values = {"model": model, "data": data, "out": out, "size": "32x32", "steps": 6, "save_every": 2, "workers": 0, **options}
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None]
    return [word for pair in pairs for word in pair] + [str(other) for other in others]


def train(*args: object, **options: object) -> int:
    """Run `train.backward` in this process and return its exit status."""
    return backward.main(arguments(*args, **options))


def start(command: Sequence[str], **environment: str) -> subprocess.Popen:
    """Start `train.backward` in another process."""
    return subprocess.Popen(
        [sys.executable, "-m", "train.backward", *command],
        cwd=ROOT,
        env=os.environ | SMALL_PROGRAMS_TOO | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def compile_once(patch) -> None:
    """Let all runs in this process with the same step share its compiled programs, and the networks' shapes."""
    compiled = Step._compiled

    def once(self, function, arguments, options):
        name = function.__name__
        shapes = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(arguments)]
        settings = dataclasses.replace(self.settings, seed=self.settings.seed if name == "make_examples" else 0)
        kind = (type(self).make_examples.__qualname__, getattr(self, "config", None))
        key = (*kind, name, settings, self.mesh, jax.tree.structure(arguments), *shapes)
        if key not in _PROGRAMS:
            _PROGRAMS[key] = compiled(self, function, arguments, options)
        return _PROGRAMS[key]

    patch.setattr(Step, "_compiled", once)
    for module in (backward, backward.checkpoint, svd):
        patch.setattr(module, "abstract", svd_folders.cached_abstract)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Wait until the condition holds; fail if the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def rows(out: Path) -> int:
    """The last step in `metrics.csv`; 0 if there is none."""
    try:
        text = (out / "metrics.csv").read_text()
    except FileNotFoundError:
        return 0
    *_, last = text[: text.rfind("\n")].splitlines() or ["step"]
    first = last.split(",")[0]
    return int(first) if first.isdecimal() else 0


def tree(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an Orbax tree by name."""
    return dict(stream_tree(folder, tree_shapes(folder), 2**30))


def learnt(out: Path) -> dict[str, np.ndarray]:
    """The exported weight differences of a run."""
    return tree(out / "backward" / "delta")


def state(out: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name."""
    return tree(out / "checkpoints" / str(step) / checkpoints.STATE)


def assert_same_arrays(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_run(out: Path, reference: Path, step: int):
    """Same loss curve, state and exported weights, bit for bit."""
    assert (out / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    assert_same_arrays(state(out, step), state(reference, step))
    assert_same_arrays(learnt(out), learnt(reference))


def losses(out: Path) -> np.ndarray:
    """The loss of every step; each step has one row."""
    table = np.atleast_1d(np.genfromtxt(out / "metrics.csv", delimiter=",", names=True))
    np.testing.assert_array_equal(table["step"], np.arange(1, len(table) + 1))
    return table["loss"]


def one_line(error: str) -> str:
    """The error line on standard error, which is the last line; there is no traceback."""
    assert "Traceback" not in error, error
    (line,) = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert error.splitlines()[-1] == line
    return line
