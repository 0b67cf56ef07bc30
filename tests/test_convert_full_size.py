"""The memory that a conversion of SVD-XT takes. Needs 20 GB of disk where pytest's temporary folders are."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.mapping import table
from svdjax.config import SVDConfig
from svdjax.initialize import abstract
from svdjax.model import NETWORKS, leaves

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


@pytest.mark.heavy
def test_peak_memory_is_the_largest_network_and_3_gib(tmp_path):
    source = tmp_path / "svd"
    for name, settings in CLASSES.items():
        folder = source / name
        folder.mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / file).write_text(json.dumps(dataclasses.asdict(getattr(SVDConfig(), name)) | settings))
        if name in NETWORKS:
            write_component(folder, name)
    # The UNet serves as the tuned one and as its base too: what they add to the peak is their tensors, not their values.
    code = (
        "import sys; from convert.svd_to_flax import main; status = main(sys.argv[1:]);"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1];"
        "print(peak); sys.exit(status)"
    )
    arguments = [str(source), str(tmp_path / "out"), "--backward", str(source), "--backward-base", str(source)]
    run = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    print(run.stdout)
    peak = int(run.stdout.split()[-1]) * 1024
    assert "2,254,442,729 parameters" in run.stdout
    assert peak <= 4 * 1_524_623_082 + 3 * GIB
