"""`train.base` on several devices: its stages have the losses of one device."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import training
from training import losses

from train import base

# Steps for several devices compile for minutes: run by hand.
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compile_once")]
STAGES = {"vae": [], "unet": ["--no-remat", "--noises", "2"]}
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


def arguments(stage, model, data, out, *others):
    return [stage, *training.arguments(model, data, out, *STAGES[stage], *others, **OPTIONS)]


@pytest.mark.parametrize("stage", STAGES)
def test_meshes(stage, training_model, training_clips, tmp_path):
    assert base.main(arguments(stage, training_model, training_clips, tmp_path / "alone")) == 0
    runs = [arguments(stage, training_model, training_clips, tmp_path / mesh, "--mesh", mesh) for mesh in MESHES]
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
