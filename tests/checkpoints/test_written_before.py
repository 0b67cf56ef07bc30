"""Checkpoints and training runs written by an earlier version: they load, and the runs resume.

`data/before_layout.tar.xz` was written by commit ccebc73, before the modules were moved into folders, with JAX 0.10.2 on a CPU:

    wide-model/, narrow-model/      checkpoints of `convert.svd_to_flax`, bfloat16; the first has backward weights
    clips/                          training data: two animations
    backward-run/, image-encoder-run/, vae-run/
                                    training runs of 4 steps, stopped after step 2 by SIGTERM; without `loss.png` and
                                    `tensorboard/`, and without `vae-run/model/`, to save space
    expected/                       `metrics.csv` of the same runs without the stop; latents and frames of `wide-model`;
                                    hash of the backward weights of `backward-run`
    make_source.py, stop_after_2.py, expect.py, commands.sh
                                    scripts that made all of this

The commands (`commands.sh`), run in an empty folder with the scripts, and with the repository and its `tests/` in PYTHONPATH:

    python make_source.py
    python -m convert.svd_to_flax wide wide-model --backward wide-tuned --dtype bfloat16
    python -m convert.svd_to_flax narrow narrow-model --dtype bfloat16
    backward="--model narrow-model --data clips --size 8x8 --seed 3 --dtype float32 --learning-rate 0.01 --no-remat"
    encoder="--model narrow-model --data world --size 8x8 --seed 3 --dtype float32 --warmup 1 --num-frames 2"
    vae="--model narrow-model --data clips --size 8x8 --seed 3 --dtype float32 --warmup 1 --divergence 0"
    every="--steps 4 --save-every 2 --workers 0"
    python -m train.backward $backward $every --out whole-backward
    python -m train.base image-encoder $encoder $every --out whole-image-encoder
    python -m train.base vae $vae $every --out whole-vae
    python stop_after_2.py backward $backward $every --out backward-run
    python stop_after_2.py base image-encoder $encoder $every --out image-encoder-run
    python stop_after_2.py base vae $vae $every --out vae-run
    mkdir expected
    for run in backward image-encoder vae; do cp whole-$run/metrics.csv expected/$run.csv; done
    python expect.py

then packed as a folder `before_layout` with `tar` and `xz -9e`. Do not make this archive again: give an archive of a later
version a name of its own. It has no `train.base unet` run: the state of the smallest UNet takes megabytes.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import svdjax
from svdjax.sampling.generation import sample_pair
from train import backward, base

NAME = "before_layout"
ARCHIVE = next(file for folder in Path(__file__).resolve().parents if (file := folder / "data" / f"{NAME}.tar.xz").exists())

# Relative tolerances. Another processor or XLA version may order sums differently, and each step starts from the last one's
# rounding errors. Other XLA flags changed losses by up to 3e-7 and latents by 8e-5: the sampler's first sigma is 700, which
# leaves float32 fewer digits for the latents.
LOSS = 1e-5
LATENTS = 1e-3


@pytest.fixture
def written(tmp_path) -> Path:
    """The archive's files, in another folder than the one they were written in."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return (tmp_path / NAME).rename(tmp_path / "moved")


def test_a_checkpoint(written):
    """Latents and frames are those of the version that wrote it."""
    model = svdjax.load(written / "wide-model", dtype="float32")
    first, last = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with np.load(written / "expected" / "interpolated.npz") as file:
        expected = dict(file)
    latents = np.asarray(sample_pair(model, first[None], last[None], svdjax.Settings(num_frames=3, steps=2, seed=5)))[0]
    difference = np.linalg.norm(latents - expected["latents"]) / np.linalg.norm(expected["latents"])
    assert difference < LATENTS
    frames = svdjax.interpolate(model, first, last, steps=2, seed=5)
    assert np.abs(frames.astype(int) - expected["frames"]).max() <= 1


def test_backward_weights_of_a_run(written):
    """The model's tensors plus the stored differences, bit for bit: one float32 sum rounds equally everywhere."""
    run = written / "backward-run" / "backward"
    model = svdjax.load(written / "narrow-model", dtype="float32", backward=run)
    digest = hashlib.sha256()
    for name, value in sorted(model.backward.items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    assert digest.hexdigest() == json.loads((written / "expected" / "backward.json").read_text())["sha256"]


def test_a_model_of_a_run(written):
    """A float32 checkpoint that training wrote loads with the configuration of the model that it started from."""
    trained = svdjax.load(written / "image-encoder-run" / "model")
    assert trained.config == svdjax.load(written / "narrow-model").config


SHARED = ["--size", "8x8", "--seed", "3", "--dtype", "float32", "--steps", "4", "--save-every", "2", "--workers", "0"]
RUNS: dict[str, tuple[Callable[[list[str]], int], list[str], str]] = {  # command, options, training data
    "backward": (backward.main, ["--learning-rate", "0.01", "--no-remat"], "clips"),
    "image-encoder": (base.main, ["--warmup", "1", "--num-frames", "2"], "world"),
    "vae": (base.main, ["--warmup", "1", "--divergence", "0"], "clips"),
}


LONGER = [pytest.param(name, marks=pytest.mark.heavy) for name in ("image-encoder", "vae")]  # to compile


@pytest.mark.parametrize("name", ["backward", *LONGER])
def test_a_run_resumes(written, name, capsys):
    """Its steps after the stop equal those of the run without a stop."""
    main, options, data = RUNS[name]
    out = written / f"{name}-run"
    before = table(out / "metrics.csv")
    assert before["step"].tolist() == [1, 2]
    stage = [] if main is backward.main else [name]
    paths = ["--model", written / "narrow-model", "--data", data if data == "world" else written / data, "--out", out]
    assert main([*stage, *map(str, paths), *SHARED, *options, "--resume"]) == 0
    assert "after step 2 of 4" in capsys.readouterr().out
    found, expected = table(out / "metrics.csv"), table(written / "expected" / f"{name}.csv")
    assert found["step"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(found[:2], before)
    for column in found.dtype.names:
        np.testing.assert_allclose(found[column], expected[column], rtol=LOSS, err_msg=column)


def table(path: Path) -> np.ndarray:
    """The rows of a `metrics.csv`, columns by name."""
    return np.genfromtxt(path, delimiter=",", names=True)
