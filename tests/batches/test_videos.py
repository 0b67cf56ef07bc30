"""Batches that sample: rows equal single runs, and rows of one shape share their compiled programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import goldens
import numpy as np
import pytest
from PIL import Image

from sample.batches import making
from sample.interpolate import main

ROOT = Path(__file__).parents[2]
TINY = ("--size", "32x16", "--num-frames", "3", "--steps", "1", "--method", "trf")


@pytest.fixture
def folder(tmp_path):
    for k in range(1, 4):
        Image.fromarray(goldens.keyframe(1 + k % 2)[: 40 * k]).save(tmp_path / f"000{k}.png")
    return tmp_path


def read(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def test_rows_of_one_shape_compile_once_and_equal_single_runs(lively_model, folder, monkeypatch, compilations):
    """Seeds, motion, noise, guidance scales and frame rates are no part of a program."""
    (folder / "p.csv").write_text(
        "first,last,output,seed,motion-bucket-id,noise-aug-strength,guidance,fps,fit\n"
        "0001.png,0002.png,a,1,,,,,\n0002.png,0003.png,b,2,60,0.1,2 4,9,\n0001.png,0003.png,c,3,,0.3,,,stretch\n"
    )
    by_clip, write = [], making.write
    model = ("--model", str(lively_model))
    with compilations() as found:

        def counted(*args):
            by_clip.append(list(found))
            found.clear()
            write(*args)

        monkeypatch.setattr(making, "write", counted)
        assert main(["--pairs", str(folder / "p.csv"), *model, *TINY]) == 0
    assert by_clip[0]
    assert by_clip[1:] == [[], []]
    row = ("--seed", "2", "--motion-bucket-id", "60", "--noise-aug-strength", "0.1", "--guidance", "2", "4", "--fps", "9")
    keyframes = [str(folder / f"000{k}.png") for k in (2, 3)]
    assert main([*keyframes, *model, *TINY, *row, "-o", str(folder / "single")]) == 0
    np.testing.assert_array_equal(read(folder / "b"), read(folder / "single"))
    assert np.abs(read(folder / "b").astype(int) - read(folder / "a")).mean() > 1


def test_a_planned_run_compiles_nothing_again(lively_model, folder, compilations):
    """What the plan compiled, the run finds in JAX's cache of this process."""
    keyframes = [str(folder / f"000{k}.png") for k in (1, 2)]
    with compilations() as found:
        assert main([*keyframes, "--model", str(lively_model), *TINY, "--memory", "0.5", "-o", str(folder / "a")]) == 0
    assert [found.count(f"jit({name})") for name in ("scan", "encode_keyframes", "finish")] == [1, 1, 1]


@pytest.mark.heavy
def test_a_folder_of_frames_equals_a_chain(lively_model, folder):
    frames = [str(folder / f"000{k}.png") for k in (1, 2, 3)]
    common = ("--model", str(lively_model), *TINY, "--keep-keyframes")
    assert main(["--frames-in", str(folder), *common, "-o", str(folder / "joined")]) == 0
    assert main([*frames, *common, "-o", str(folder / "chain")]) == 0
    assert len(read(folder / "joined")) == 5
    np.testing.assert_array_equal(read(folder / "joined"), read(folder / "chain"))


@pytest.mark.heavy
def test_rows_on_two_devices_equal_those_on_one(lively_model, folder):
    """Three alike rows, the last with a recorded noise: batches of two, the last of each likeness filled up."""
    rng = np.random.default_rng(0)
    shapes = {"augmentation": (16, 32, 3), "initial": (3, 8, 16, 4), "recurrence": (0, 3, 8, 16, 4)}
    np.savez(folder / "n.npz", **{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    rows = "0001.png,0002.png,{0}a,1,\n0002.png,0003.png,{0}b,2,\n0001.png,0003.png,{0}c,3,\n0001.png,0003.png,{0}d,3,n.npz\n"
    for name in ("one", "two"):
        (folder / f"{name}.csv").write_text("first,last,output,seed,noise\n" + rows.format(name))
    command = ["--model", str(lively_model), *TINY, "--recurrence", "0"]
    assert main(["--pairs", str(folder / "one.csv"), *command]) == 0
    subprocess.run(
        [sys.executable, "-m", "sample.interpolate", "--pairs", folder / "two.csv", *command, "--mesh", "data=2"],
        env=os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"},
        check=True,
        cwd=ROOT,
    )
    for row in "abcd":
        one, two = (read(folder / f"{name}{row}").astype(int) for name in ("one", "two"))
        assert np.abs(one - two).max() <= 1
    assert np.abs(read(folder / "onec").astype(int) - read(folder / "oned")).mean() > 1
