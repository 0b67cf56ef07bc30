"""SVD-XT in one file at full size, random weights: time and peak memory of reading, converting and writing it.

Needs 20 GB of disk for pytest's temporary folders and 12 GB of memory. Run with `-s`, it prints what it measures.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import original_files
import pytest
from PIL import Image

from svdjax.checkpoints.safetensors_reader import Weights
from svdjax.loading import find_model
from svdjax.original_layout.name_table import UNUSED

GIB = 2**30
PARAMETERS = {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800}
BLOCK = 2**25


def write_file(path: Path) -> None:
    """Every tensor of Stability's file in float16: for each another part of one block of random numbers."""
    shapes = original_files.text("full")
    header, stop = {}, 0
    for name, shape in shapes.items():
        start, stop = stop, stop + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, stop]}
    block = (0.02 * np.random.default_rng(0).standard_normal(2 * BLOCK, np.float32)).astype(np.float16)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = math.prod(shape)
            while left:
                start = zlib.crc32(f"{name}{left}".encode()) % BLOCK
                file.write(block[start : start + min(left, BLOCK)].data)
                left -= min(left, BLOCK)


def run(code: str, *arguments: object) -> tuple[float, float]:
    """Run a program in its own process; seconds and peak memory in GiB."""
    program = (
        f"import sys\n{code}\nprint([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True, text=True)
    print(done.stdout)
    return time.monotonic() - started, int(done.stdout.split()[-1]) * 1024 / GIB


@pytest.mark.heavy
def test_time_and_peak_memory(tmp_path):
    file, checkpoint, out = (tmp_path / name for name in ("svd_xt.safetensors", "checkpoint", "out.safetensors"))
    write_file(file)
    started = time.monotonic()
    assert "25 frames per clip by its name" in find_model(file).notes[0]
    print(f"recognized and checked in {time.monotonic() - started:.1f} s")
    load = "import svdjax\nsvdjax.load(sys.argv[1], dtype='bfloat16')"
    weights = (2 * (PARAMETERS["unet"] + PARAMETERS["image_encoder"]) + 4 * PARAMETERS["vae"]) / GIB
    seconds, peak = run(load, file)
    print(f"svdjax.load({file.name}) in bfloat16: {seconds:.0f} s, peak {peak:.2f} GiB; the weights are {weights:.2f} GiB")
    assert peak < weights + 1.5
    seconds, peak = run("from convert.svd_to_flax import main\nmain(sys.argv[1:])", file, checkpoint, "--dtype", "bfloat16")
    print(f"convert.svd_to_flax to bfloat16: {seconds:.0f} s, peak {peak:.2f} GiB")
    assert peak < 2 * PARAMETERS["unet"] / GIB + 3
    seconds, peak = run(load, checkpoint)
    print(f"svdjax.load(the checkpoint): {seconds:.0f} s, peak {peak:.2f} GiB")
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 80, 70)).save(tmp_path / f"{number}.png")
    small = ["--size", "64x64", "--num-frames", "2", "--steps", "1", "--method", "trf", "--dtype", "bfloat16", "-o"]
    arguments = [tmp_path / "0.png", tmp_path / "1.png", "--model", file, *small, tmp_path / "v.mp4"]
    seconds, peak = run("from sample.interpolate import main\nassert main(sys.argv[1:]) == 0", *arguments)
    print(f"sample.interpolate --model {file.name}, one step of 2 frames of 64x64: {seconds:.0f} s, peak {peak:.2f} GiB")
    command = "from convert.flax_to_svd import main\nmain(sys.argv[1:])"
    seconds, peak = run(command, checkpoint, out, "--single-file", "--dtype", "float16")
    print(f"convert.flax_to_svd --single-file: {seconds:.0f} s, peak {peak:.2f} GiB")
    assert peak < 2.5
    before, after = Weights.open(file, (file,)), Weights.open(out, (out,))
    assert after.tensors.keys() == {name for name in before.tensors if not name.startswith(UNUSED)}
    for name in after.tensors:
        if not name.startswith("first_stage_model.encoder."):
            expected = before.read(name).astype(jnp.bfloat16).astype(np.float16)  # as stored in the checkpoint
            np.testing.assert_array_equal(after.read(name), expected, err_msg=name)
