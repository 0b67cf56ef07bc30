"""The backward UNet as a diffusers folder: every tensor, its results in diffusers, round trips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import svd_folders
import torch
from diffusers import UNetSpatioTemporalConditionModel  # pyright: ignore[reportPrivateImportUsage]
from safetensors.numpy import save_file
from svd_folders import TO_V, UNET_FILE, assert_same, converted, diffusers_state, tensors, weights_file

from convert import svd_to_flax
from convert.flax_to_svd import main
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import base_tensors, save_backward
from svdjax.diffusers_layout import exporting
from svdjax.models.backward import QUERIES, VALUES
from svdjax.runtime.sizes import bytes_as_text

pytestmark = pytest.mark.usefixtures("quick_shapes")


def test_the_models_own_backward_weights(model, tuned, tmp_path, capsys):
    out = tmp_path / "unet"
    assert main([str(model), str(out)]) == 0
    assert_same(diffusers_state(out), tensors(tuned / UNET_FILE))
    assert_same(diffusers_state(tmp_path, subfolder="unet"), tensors(tuned / UNET_FILE))  # as the official script loads it
    assert sorted(path.name for path in out.iterdir()) == ["config.json", UNET_FILE]
    config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, tuned))
    assert config.pop("_svdjax")["backward"]["trained"] == ["to_v.kernel", "to_out.kernel", "to_out.bias"]
    theirs.pop("_diffusers_version")
    assert config == theirs
    captured = capsys.readouterr()
    count = sum(value.size for value in tensors(tuned / UNET_FILE).values())
    assert captured.out == (
        f"{out}: a UNet, {count:,} parameters in float32, {bytes_as_text(4 * count)}, "
        "with backward weights to_v.kernel, to_out.kernel, to_out.bias\n"
    )


def run(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sample, context = torch.randn((1, 5, 8, 8, 8), generator=generator), torch.randn((1, 1, 48), generator=generator)
    with torch.no_grad():
        return unet(sample, 0.7, context, torch.full((1, 3), 6.0)).sample


def test_it_computes_the_same_as_the_fine_tuned_unet(model, source, tuned, tmp_path):
    assert main([str(model), str(tmp_path / "unet")]) == 0
    ours, theirs, base = (
        run(UNetSpatioTemporalConditionModel.from_pretrained(folder)) for folder in (tmp_path / "unet", tuned, source / "unet")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # alignment in memory changes the order of sums
    assert (ours - base).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_of_a_training_run(model, source, trained_backward, tmp_path, dtype):
    out = tmp_path / "out"
    arguments = [] if dtype == "float32" else ["--dtype", dtype]  # as the model is stored
    assert main([str(model), str(out), "--backward", str(trained_backward), *arguments]) == 0
    expected = tensors(weights_file(source, "unet"))
    for name, value in converted(trained_backward, "delta").items():
        expected[name] = expected[name] + value.astype(np.float32)
    rounded = {name: torch.tensor(value).to(getattr(torch, dtype)).float().numpy() for name, value in expected.items()}
    assert_same(tensors(out / UNET_FILE), rounded)
    assert_same(diffusers_state(out, torch_dtype=getattr(torch, dtype)), rounded)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_converting_it_again_gives_the_same_overlay(model, source, trained_backward, tmp_path, dtype):
    """Float32: bit for bit. Float16: rounded to float16, and no other tensor counts as changed."""
    assert main([str(model), str(tmp_path / "unet"), "--backward", str(trained_backward), "--dtype", dtype]) == 0
    assert svd_to_flax.main([str(source), str(tmp_path / "again"), "--backward", str(tmp_path / "unet")]) == 0
    own = {name: value for name, value in converted(model, "unet").items() if svd_folders.temporal(name, "to_v", "to_out.0")}
    expected = {name: own[name] + value.astype(np.float32) for name, value in converted(trained_backward, "delta").items()}
    assert_same(converted(tmp_path / "again", "backward"), {n: v.astype(dtype).astype(np.float32) for n, v in expected.items()})


@pytest.mark.parametrize("queries", [False, True])
def test_only_the_trained_tensors(model, source, base, tmp_path, queries):
    """A small file, from which a conversion takes the backward weights."""
    kinds = VALUES + QUERIES if queries else VALUES
    start = {name: np.asarray(value) for name, value in base_tensors(model, kinds).items()}
    save_backward(tmp_path / "delta", svd_folders.trained(start, kinds), start, {"sources": read_info(model).sources})
    assert main([str(model), str(tmp_path / "small"), "--only-trained", "--backward", str(tmp_path / "delta")]) == 0
    found = tensors(tmp_path / "small" / UNET_FILE)
    assert all(".temporal_transformer_blocks.0.attn1." in name for name in found)
    assert len(found) == len(start)
    assert svd_to_flax.main([str(source), str(tmp_path / "again"), "--backward", str(tmp_path / "small")]) == 0
    assert main([str(model), str(tmp_path / "unet"), "--backward", str(tmp_path / "delta")]) == 0
    assert svd_to_flax.main([str(source), str(tmp_path / "whole"), "--backward", str(tmp_path / "unet")]) == 0
    assert_same(converted(tmp_path / "again", "backward"), converted(tmp_path / "whole", "backward"))


def test_all_trained_tensors_must_be_there(source, tuned, tmp_path, capsys):
    """A file with one tensor of the temporal attentions is neither a whole UNet nor all of its trained tensors."""
    shutil.copytree(tuned, tmp_path / "part")
    save_file({TO_V: tensors(tuned / UNET_FILE)[TO_V]}, tmp_path / "part" / UNET_FILE)
    assert svd_to_flax.main([str(source), str(tmp_path / "out"), "--backward", str(tmp_path / "part")]) == 2
    assert f"{tmp_path / 'part' / UNET_FILE}: lacks " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tensors_are_read_a_few_at_a_time(model, tuned, tmp_path, monkeypatch):
    groups = []
    whole = exporting.stream_tree

    def stream_tree(path, expected, group_bytes, **options):
        assert group_bytes == exporting.GROUP_BYTES
        groups.append(path.name)
        return whole(path, expected, 20_000, **options)

    monkeypatch.setattr(exporting, "stream_tree", stream_tree)
    assert main([str(model), str(tmp_path / "unet")]) == 0
    assert groups == ["backward", "unet"]
    assert_same(tensors(tmp_path / "unet" / UNET_FILE), tensors(tuned / UNET_FILE))


def test_a_transfer_is_reported(model, trained_backward, tmp_path, capsys):
    other = Path(shutil.copytree(model, tmp_path / "other"))
    svd_folders.edit_json(other / "config.json", sources={f"unet/{UNET_FILE}": "0"})
    assert main([str(other), str(tmp_path / "out"), "--backward", str(trained_backward)]) == 0
    note = f"{trained_backward}: trained from another UNet than the model's: transferred as a difference\n"
    assert capsys.readouterr().out.startswith(note)
