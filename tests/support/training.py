"""What the tests of `train.backward` share: a model as small as can be, clips, the command in this process and in others."""

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
SMALL_PROGRAMS_TOO = {  # which JAX otherwise doesn't keep
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


_PROGRAMS: dict = {}


def write_source(folder: Path, **unet) -> Path:
    """A whole SVD in diffusers' layout whose UNet has one level, with three temporal self-attentions."""
    return svd_folders.enliven(svd_folders.write(folder, unet=UNET | unet))


def write_clips(folder: Path, count: int = 4, frames: int = 6) -> Path:
    """Animations of coloured squares that move, 24x24."""
    rng = np.random.default_rng(0)
    for i in range(count):
        squares = rng.integers(0, 255, (6, 6, 3), np.uint8)
        moved = [np.kron(np.roll(squares, t, 1), np.ones((4, 4, 1), np.uint8)) for t in range(frames)]
        videos.write_gif(folder / f"c{i}.gif", moved)
    return folder


def arguments(model: Path, data: Path, out: Path, *others: object, **options: object) -> list[str]:
    """A command line; underscores of `options` are dashes, None leaves one out."""
    given = {"model": model, "data": data, "out": out, "size": "32x32", "steps": 6, "save_every": 2, "workers": 0, **options}
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
    return [word for pair in pairs for word in pair] + [str(other) for other in others]


def train(*args: object, **options: object) -> int:
    """The command in this process; its exit status."""
    return backward.main(arguments(*args, **options))


def start(command: Sequence[str], **environment: str) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "train.backward", *command],
        cwd=ROOT,
        env=os.environ | SMALL_PROGRAMS_TOO | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def compile_once(patch) -> None:
    """Let all runs in this process that do the same step share its compiled program, and networks' shapes."""
    compiled = Step._compiled

    def once(self, name, given, options):
        shapes = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(given)]
        how = dataclasses.replace(self.how, seed=self.how.seed if name == "examples" else 0)
        kind = (getattr(self, "stage", "backward"), getattr(self, "config", None))
        key = (*kind, name, how, self.mesh, jax.tree.structure(given), *shapes)
        if key not in _PROGRAMS:
            _PROGRAMS[key] = compiled(self, name, given, options)
        return _PROGRAMS[key]

    patch.setattr(Step, "_compiled", once)
    for module in (backward, backward.checkpoint):
        patch.setattr(module, "abstract", svd_folders.cached_abstract)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Look every few milliseconds, until it is so or the process has ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def rows(out: Path) -> int:
    """The last step in `metrics.csv`, 0 where there is none."""
    try:
        text = (out / "metrics.csv").read_text()
    except FileNotFoundError:
        return 0
    *_, last = text[: text.rfind("\n")].splitlines() or ["step"]
    first = last.split(",")[0]
    return int(first) if first.isdecimal() else 0


def tree(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of an Orbax tree by name."""
    return dict(stream_tree(folder, tree_shapes(folder), 2**30))


def learnt(out: Path) -> dict[str, np.ndarray]:
    """What a run wrote."""
    return tree(out / "backward" / "delta")


def state(out: Path, step: int) -> dict[str, np.ndarray]:
    """A checkpoint's arrays."""
    return tree(out / "checkpoints" / str(step) / checkpoints.STATE)


def assert_same_arrays(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_run(out: Path, reference: Path, step: int):
    """Bit for bit the same loss curve, state and result."""
    assert (out / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    assert_same_arrays(state(out, step), state(reference, step))
    assert_same_arrays(learnt(out), learnt(reference))


def losses(out: Path) -> np.ndarray:
    """Of every step; each has one row."""
    table = np.atleast_1d(np.genfromtxt(out / "metrics.csv", delimiter=",", names=True))
    np.testing.assert_array_equal(table["step"], np.arange(1, len(table) + 1))
    return table["loss"]


def one_line(error: str) -> str:
    """The one line of a refusal among what else is on standard error; no traceback is."""
    assert "Traceback" not in error, error
    (line,) = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert error.splitlines()[-1] == line
    return line
