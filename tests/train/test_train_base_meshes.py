"""`train.base` on several devices: the losses are those of one device."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import training
from training import losses

from train import base

# Steps on several devices compile for minutes: run by hand.
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compile_once")]
CASES = {
    "vae": ["vae"],
    "unet": ["unet", "--no-remat", "--noises", "2"],
    "cached": [
        "unet",
        "--no-remat",
        "--freeze-encoder",
        "--cache-latents",
    ],  # the folder follows: each run has its own, so that it encodes
}
MESHES = ("data=2", "fsdp=2")
OPTIONS = {"steps": 3, "warmup": 1, "batch_size": 2}

PROGRAM = textwrap.dedent(
    """
    import sys
    from train import base
    for words in sys.argv[1:]:
        assert base.main(words.split("|")) == 0
    """
)


def arguments(case, model, data, out, *others):
    stage, *words = CASES[case]
    words += [out.with_name(f"cache-{out.name}")] * (case == "cached")
    return [stage, *training.arguments(model, data, out, *words, *others, **OPTIONS)]


@pytest.mark.parametrize("case", CASES)
def test_meshes(case, training_model, training_clips, tmp_path):
    assert base.main(arguments(case, training_model, training_clips, tmp_path / "alone")) == 0
    runs = [arguments(case, training_model, training_clips, tmp_path / mesh, "--mesh", mesh) for mesh in MESHES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *("|".join(words) for words in runs)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(training.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for mesh in MESHES:
        np.testing.assert_allclose(losses(tmp_path / mesh), losses(tmp_path / "alone"), rtol=1e-4)
        assert (tmp_path / mesh / "model" / "config.json").exists()
