"""Peak memory of converting SVD-XT in both directions. Needs 24 GB of disk for pytest's temporary folders."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svdjax.checkpoints.safetensors_reader import Weights
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.model_folder import WEIGHTS_NAMES
from svdjax.diffusers_layout.name_table import network_table
from svdjax.models.svd import NETWORKS

GIB = 2**30
CLASSES = {
    "unet": {"_class_name": "UNetSpatioTemporalConditionModel"},
    "vae": {"_class_name": "AutoencoderKLTemporalDecoder"},
    "image_encoder": {"model_type": "clip_vision_model"},
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "use_karras_sigmas": True,
        "timestep_type": "continuous",
    },
}


def write_component(folder: Path, name: str) -> None:
    """Write random weights in a float16 file, one tensor at a time."""
    rows = network_table(name, SVDConfig()).values()
    header, stop = {}, 0
    for row in rows:
        start, stop = stop, stop + 2 * row.size
        header[row.torch_name] = {"dtype": "F16", "shape": row.torch_shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / f"{WEIGHTS_NAMES[name]}.fp16.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for row in rows:
            file.write((0.02 * rng.standard_normal(row.size, dtype=np.float32)).astype(np.float16).tobytes())


def peak_of(command: str, *arguments: Path | str) -> tuple[int, str]:
    """Run a command of `convert` in its own process and return its peak memory in bytes and its output."""
    code = (
        f"import sys; from convert.{command} import main; status = main(sys.argv[1:]);"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1];"
        "print(peak); sys.exit(status)"
    )
    command_line = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command_line, check=True, capture_output=True, text=True)
    print(run.stdout)
    return int(run.stdout.split()[-1]) * 1024, run.stdout


@pytest.mark.heavy
def test_peak_memory_in_both_directions(tmp_path):
    source, out = tmp_path / "svd", tmp_path / "out"
    for name, settings in CLASSES.items():
        folder = source / name
        folder.mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / file).write_text(json.dumps(dataclasses.asdict(getattr(SVDConfig(), name)) | settings))
        if name in NETWORKS:
            write_component(folder, name)
    # The UNet is its own tuned UNet and base: the peak depends on their shapes, not their values.
    peak, printed = peak_of("svd_to_flax", source, out, "--backward", source, "--backward-base", source)
    assert "2,254,442,729 parameters" in printed
    assert peak <= 4 * 1_524_623_082 + 3 * GIB  # the largest network, and 3 GiB
    # the export never holds the whole UNet; float16 again gives the values of the source
    peak, printed = peak_of("flax_to_svd", out, tmp_path / "unet", "--dtype", "float16")
    assert "1,524,623,082 parameters" in printed
    assert peak <= 2.5 * GIB
    theirs = Weights.open(source, (source / "unet" / f"{WEIGHTS_NAMES['unet']}.fp16.safetensors",))
    ours = Weights.open(tmp_path, (tmp_path / "unet" / f"{WEIGHTS_NAMES['unet']}.safetensors",))
    assert sorted(ours.tensors) == sorted(theirs.tensors)
    for name in ours.tensors:
        np.testing.assert_array_equal(ours.read(name), theirs.read(name), err_msg=name)
