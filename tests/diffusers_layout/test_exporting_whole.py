"""Whole models as diffusers folders: every tensor and setting, and diffusers' pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import svd_folders
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
from svd_folders import TO_V, UNET_FILE, assert_same, diffusers_state, tensors, weights_file

from convert import svd_to_flax
from convert.flax_to_svd import main
from svdjax.checkpoints.checkpoint import read_info

pytestmark = pytest.mark.usefixtures("quick_shapes")


def test_a_whole_model(source, tuned, model, trained_backward, tmp_path, capsys):
    """Every tensor and setting equals that of the original folder; diffusers builds its pipeline from it."""
    out = tmp_path / "svd"
    assert main([str(model), str(out), "--whole"]) == 0
    assert "a whole model, " in capsys.readouterr().out
    for component in svd_folders.COMPONENTS:
        assert_same(tensors(weights_file(out, component)), tensors(weights_file(source, component)))
    assert_same(diffusers_state(out / "unet_backward"), tensors(tuned / UNET_FILE))
    pipeline = StableVideoDiffusionPipeline.from_pretrained(out)
    theirs: Any = EulerDiscreteScheduler.from_pretrained(source / "scheduler")
    for scheduler in (pipeline.scheduler, theirs):
        scheduler.set_timesteps(7)
    np.testing.assert_array_equal(pipeline.scheduler.sigmas, theirs.sigmas)
    assert list(pipeline.feature_extractor.image_mean) == svd_folders.STATISTICS["image_mean"]
    assert svd_to_flax.main([str(out), str(tmp_path / "again"), "--backward", str(out / "unet_backward")]) == 0
    assert read_info(tmp_path / "again").config == read_info(model).config
    # again in the same place, with other backward weights
    options = ["--whole", "--overwrite", "--backward", str(trained_backward), "--dtype", "float16"]
    assert main([str(model), str(out), *options]) == 0
    assert (diffusers_state(out / "unet_backward")[TO_V] != tensors(tuned / UNET_FILE)[TO_V]).any()


def test_a_whole_model_without_backward_weights(source, forward_only, tmp_path):
    assert main([str(forward_only), str(tmp_path / "svd"), "--whole"]) == 0
    assert not (tmp_path / "svd" / "unet_backward").exists()
    assert_same(diffusers_state(tmp_path / "svd" / "unet"), tensors(weights_file(source, "unet")))
