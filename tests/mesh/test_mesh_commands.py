"""The sampling commands and `sample.benchmark` on several simulated devices, or GPUs that need not be present."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import benchmark_model
import numpy as np
import pytest
from gpu_compiler import has_gpu_compiler
from PIL import Image

from sample import benchmark
from svdjax.world.drawing import render
from svdjax.world.scene import scene


def run(optimised, devices, *command):
    env = optimised | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-m", *map(str, command)], env=env, capture_output=True, text=True, check=False, timeout=1200
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def keyframes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyframes")
    clip = render(scene("test", 3))
    for k in (0, 4, 7):
        Image.fromarray(clip[k]).save(folder / f"{k}.png")
    return sorted(folder.iterdir())


def largest_difference(a, b):
    """In levels, over all frames of two folders."""
    names = sorted(path.relative_to(a) for path in a.rglob("*.png"))
    assert names == sorted(path.relative_to(b) for path in b.rglob("*.png"))
    pairs = ((np.asarray(Image.open(folder / name), int) for folder in (a, b)) for name in names)
    return max(int(np.abs(first - second).max()) for first, second in pairs)


@pytest.mark.heavy
def test_a_chain(optimised, keyframes, tmp_path):
    """Both clips at a time by default, each clip over both devices if it is asked for, and one device."""
    printed = {}
    for name, devices, options in (("one", 1, ()), ("pairs", 2, ()), ("guidance", 2, ("--mesh", "guidance=2"))):
        out = f"{tmp_path / name}{os.sep}"
        printed[name] = run(optimised, devices, "sample.interpolate", *keyframes, "--steps", 2, "-o", out, *options)
    assert "1 host, 2 devices (cpu), mesh data=2\n" in printed["pairs"]
    assert "1 host, 2 devices (cpu), mesh guidance=2\n" in printed["guidance"]
    assert "mesh" not in printed["one"]
    assert largest_difference(tmp_path / "one", tmp_path / "pairs") <= 1
    assert largest_difference(tmp_path / "one", tmp_path / "guidance") <= 1


@pytest.mark.heavy
def test_images_and_seeds(optimised, keyframes, tmp_path):
    """Two clips of each image, in rounds of two."""
    options = "--steps", 1, "--format", "frames", "--clips-per-image", 2
    images = keyframes[:2]
    run(optimised, 1, "sample.animate", *images, *options, "-o", tmp_path / "one")
    printed = run(optimised, 2, "sample.animate", *images, *options, "-o", tmp_path / "two", "--mesh", "data=2")
    assert "mesh data=2" in printed
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1


@pytest.mark.heavy
def test_an_evaluation(optimised, tmp_path):
    options = "--pairs", 3, "--steps", 1, "--methods", "trf,reconstruction"
    run(optimised, 1, "sample.evaluate", *options, "--out", tmp_path / "one")
    printed = run(optimised, 2, "sample.evaluate", *options, "--out", tmp_path / "two", "--mesh", "data=2")
    assert "mesh data=2" in printed
    assert largest_difference(tmp_path / "one" / "trf", tmp_path / "two" / "trf") <= 1


@pytest.mark.heavy
@pytest.mark.skipif(not has_gpu_compiler(), reason="the extra cuda is not installed")
def test_a_step_for_gpus(tmp_path, capsys):
    model, file = benchmark_model.write(tmp_path / "tiny"), tmp_path / "plan.json"
    arguments = ["--model", str(model), "--target", "h200", "--mesh", "guidance=2,columns=2", "--json", str(file)]
    assert benchmark.main(arguments) == 0
    assert "dual_step: communication" in capsys.readouterr().out
    sent = json.loads(file.read_text())["dual_step_traffic"]
    assert {(row["kind"], row["axes"]) for row in sent} == {
        ("all-gather", "guidance"),
        ("all-gather", "columns"),
        ("collective-permute", "columns"),
    }
