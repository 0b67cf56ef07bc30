"""The memory that conversions of SVD-XT take, there and back. Needs 24 GB of disk where pytest's temporary folders are."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svdjax.config import SVDConfig
from svdjax.diffusers_layout.name_table import table
from svdjax.diffusers_layout.safetensors_reader import Weights
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, leaves

GIB = 2**30
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
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
    """A float16 variant with random weights, written as they are drawn."""
    config = getattr(SVDConfig(), name)
    shapes = {leaf: value.shape for leaf, value in leaves(abstract(NETWORKS[name], config, np.float32)).items()}
    rows = table(shapes).values()
    header, stop = {}, 0
    for row in rows:
        start, stop = stop, stop + 2 * row.size
        header[row.torch_name] = {"dtype": "F16", "shape": row.torch_shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / f"{STEMS[name]}.fp16.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for row in rows:
            file.write((0.02 * rng.standard_normal(row.size, dtype=np.float32)).astype(np.float16).tobytes())


def peak_of(command: str, *arguments: Path | str) -> tuple[int, str]:
    """Run a command of `convert` in a process of its own: the most bytes that it held, and what it printed."""
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
def test_peak_memory_there_and_back(tmp_path):
    source, out = tmp_path / "svd", tmp_path / "out"
    for name, settings in CLASSES.items():
        folder = source / name
        folder.mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / file).write_text(json.dumps(dataclasses.asdict(getattr(SVDConfig(), name)) | settings))
        if name in NETWORKS:
            write_component(folder, name)
    # The UNet serves as the tuned one and as its base too: what they add to the peak is their tensors, not their values.
    peak, printed = peak_of("svd_to_flax", source, out, "--backward", source, "--backward-base", source)
    assert "2,254,442,729 parameters" in printed
    assert peak <= 4 * 1_524_623_082 + 3 * GIB  # the largest network, and 3 GiB
    # the way back never holds the UNet; float16 again, of the values that the source had
    peak, printed = peak_of("flax_to_svd", out, tmp_path / "unet", "--dtype", "float16")
    assert "1,524,623,082 parameters" in printed
    assert peak <= 2.5 * GIB
    theirs = Weights.open(source, (source / "unet" / f"{STEMS['unet']}.fp16.safetensors",))
    ours = Weights.open(tmp_path, (tmp_path / "unet" / f"{STEMS['unet']}.safetensors",))
    assert sorted(ours.tensors) == sorted(theirs.tensors)
    for name in ours.tensors:
        np.testing.assert_array_equal(ours.read(name), theirs.read(name), err_msg=name)
