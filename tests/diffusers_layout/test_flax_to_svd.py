"""The backward UNet as a diffusers folder: every tensor, round trips, what is refused."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import svd_folders
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from safetensors.numpy import save_file
from svd_folders import converted, tensors, weights_file

from convert import svd_to_flax
from convert.flax_to_svd import main
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import base_tensors, save_backward
from svdjax.config import UNetConfig
from svdjax.diffusers_layout import exporting
from svdjax.diffusers_layout.config_files import from_pytorch, unet_json
from svdjax.models.backward import QUERIES, VALUES

pytestmark = pytest.mark.usefixtures("quick_shapes")

FILE = "diffusion_pytorch_model.safetensors"
TO_V = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.weight"
refused = functools.partial(svd_folders.refused, command=main)


@pytest.fixture(scope="module")
def delta(model, base, tmp_path_factory) -> Path:
    """Backward weights of a training run from `model`'s UNet."""
    folder = tmp_path_factory.mktemp("run") / "backward"
    save_backward(folder, svd_folders.trained(base), base, {"sources": read_info(model).sources})
    return folder


def state(folder: Path, **options) -> dict[str, np.ndarray]:
    """What diffusers reads from a folder; every tensor must be there."""
    module, report = UNetSpatioTemporalConditionModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return {name: value.float().numpy() for name, value in module.state_dict().items()}


def assert_same(actual, expected):
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_the_models_own_backward_weights(model, tuned, tmp_path, capsys):
    out = tmp_path / "unet"
    assert main([str(model), str(out)]) == 0
    assert_same(state(out), tensors(tuned / FILE))
    assert_same(state(tmp_path, subfolder="unet"), tensors(tuned / FILE))  # as the official script loads it
    assert sorted(path.name for path in out.iterdir()) == ["config.json", FILE]
    config, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, tuned))
    assert {name: value for name, value in config.items() if name[1:] != "svdjax"} | {"_diffusers_version": None} == (
        theirs | {"_diffusers_version": None}
    )
    assert config["_svdjax"]["backward"]["trained"] == ["to_v.kernel", "to_out.kernel", "to_out.bias"]
    captured = capsys.readouterr()
    count = sum(value.size for value in tensors(tuned / FILE).values())
    assert captured.out == (
        f"{out}: a UNet of {count:,} parameters in float32, 0.00 GiB, "
        "with backward weights to_v.kernel, to_out.kernel, to_out.bias\n"
    )


def run(unet: UNetSpatioTemporalConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sample, context = torch.randn((1, 5, 8, 8, 8), generator=generator), torch.randn((1, 1, 48), generator=generator)
    with torch.no_grad():
        return unet(sample, 0.7, context, torch.full((1, 3), 6.0)).sample


def test_it_computes_what_the_fine_tuned_unet_does(model, source, tuned, tmp_path):
    assert main([str(model), str(tmp_path / "unet")]) == 0
    ours, theirs, base = (
        run(UNetSpatioTemporalConditionModel.from_pretrained(folder)) for folder in (tmp_path / "unet", tuned, source / "unet")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # sums in another order, where memory lies otherwise
    assert (ours - base).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_of_a_training_run(model, source, delta, tmp_path, dtype):
    out = tmp_path / "out"
    arguments = [] if dtype == "float32" else ["--dtype", dtype]  # as the model is stored
    assert main([str(model), str(out), "--backward", str(delta), *arguments]) == 0
    expected = tensors(weights_file(source, "unet"))
    for name, value in converted(delta, "delta").items():
        expected[name] = expected[name] + value.astype(np.float32)
    rounded = {name: torch.tensor(value).to(getattr(torch, dtype)).float().numpy() for name, value in expected.items()}
    assert_same(tensors(out / FILE), rounded)
    assert_same(state(out, torch_dtype=getattr(torch, dtype)), rounded)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_converting_it_again_gives_the_same_overlay(model, source, delta, tmp_path, dtype):
    """Float32: bit for bit. Float16: what float16 rounds to, and nothing else counts as changed."""
    assert main([str(model), str(tmp_path / "unet"), "--backward", str(delta), "--dtype", dtype]) == 0
    assert svd_to_flax.main([str(source), str(tmp_path / "again"), "--backward", str(tmp_path / "unet")]) == 0
    own = {name: value for name, value in converted(model, "unet").items() if svd_folders.temporal(name, "to_v", "to_out.0")}
    expected = {name: own[name] + value.astype(np.float32) for name, value in converted(delta, "delta").items()}
    assert_same(converted(tmp_path / "again", "backward"), {n: v.astype(dtype).astype(np.float32) for n, v in expected.items()})


@pytest.mark.parametrize("queries", [False, True])
def test_what_was_trained_alone(model, source, base, tmp_path, queries):
    """A small file, which the converter takes for the backward weights."""
    kinds = VALUES + QUERIES if queries else VALUES
    start = base_tensors(model, kinds)
    save_backward(tmp_path / "delta", svd_folders.trained(start, kinds), start, {"sources": read_info(model).sources})
    assert main([str(model), str(tmp_path / "small"), "--only-trained", "--backward", str(tmp_path / "delta")]) == 0
    found = tensors(tmp_path / "small" / FILE)
    assert all(".temporal_transformer_blocks.0.attn1." in name for name in found)
    assert len(found) == len(start)
    assert svd_to_flax.main([str(source), str(tmp_path / "again"), "--backward", str(tmp_path / "small")]) == 0
    assert main([str(model), str(tmp_path / "unet"), "--backward", str(tmp_path / "delta")]) == 0
    assert svd_to_flax.main([str(source), str(tmp_path / "whole"), "--backward", str(tmp_path / "unet")]) == 0
    assert_same(converted(tmp_path / "again", "backward"), converted(tmp_path / "whole", "backward"))


def test_what_was_trained_must_be_all_of_it(source, tuned, tmp_path, capsys):
    """A file of one tensor of the temporal attentions is neither a UNet nor what was trained of one."""
    shutil.copytree(tuned, tmp_path / "part")
    save_file({TO_V: tensors(tuned / FILE)[TO_V]}, tmp_path / "part" / FILE)
    assert svd_to_flax.main([str(source), str(tmp_path / "out"), "--backward", str(tmp_path / "part")]) == 2
    assert f"{tmp_path / 'part' / FILE}: lacks " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tensors_are_read_a_few_at_a_time(model, tuned, tmp_path, monkeypatch):
    groups = []
    whole = exporting.stream_tree

    def stream_tree(path, expected, at_once, **options):
        assert at_once == exporting.AT_ONCE
        groups.append(path.name)
        return whole(path, expected, 20_000, **options)

    monkeypatch.setattr(exporting, "stream_tree", stream_tree)
    assert main([str(model), str(tmp_path / "unet")]) == 0
    assert groups == ["backward", "unet"]
    assert_same(tensors(tmp_path / "unet" / FILE), tensors(tuned / FILE))


SETTINGS = [
    {},
    {"layers_per_block": (1, 2, 1, 2), "cross_attention_dim": (8, 16, 8, 8), "transformer_layers_per_block": (1, 1, 2, 1)},
    {"num_frames": 14, "sample_size": (40, 72), "num_attention_heads": (1, 2, 4, 4)},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_configuration_is_read_back(settings):
    config = UNetConfig(**settings)
    data = json.loads(json.dumps(unet_json(config)))
    assert from_pytorch("unet", data) == config
    with torch.device("meta"):
        module = UNetSpatioTemporalConditionModel.from_config(data)
    assert module.config.num_frames == config.num_frames
    if not settings:  # as in SVD's own file
        assert (data["layers_per_block"], data["cross_attention_dim"], data["transformer_layers_per_block"]) == (2, 1024, 1)
        assert data["num_attention_heads"] == [5, 10, 20, 20]


def test_a_transfer_is_said(model, delta, tmp_path, capsys):
    other = Path(shutil.copytree(model, tmp_path / "other"))
    svd_folders.edit_json(other / "config.json", sources={f"unet/{FILE}": "0"})
    assert main([str(other), str(tmp_path / "out"), "--backward", str(delta)]) == 0
    assert capsys.readouterr().out.startswith(f"{delta}: trained from another UNet than the model's: transferred as a diff")


@pytest.fixture(scope="module")
def forward_only(model, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("forward") / "model"))
    shutil.rmtree(folder / "backward")
    data = json.loads((folder / "config.json").read_text())
    files = {name: size for name, size in data["files"].items() if not name.startswith("backward/")}
    (folder / "config.json").write_text(json.dumps(data | {"files": files, "backward": None}))
    return folder


def test_bad_input(model, forward_only, source, delta, tmp_path, capsys):
    out = tmp_path / "out"
    assert refused(capsys, forward_only, out) == (
        f"{forward_only}: no backward weights, which are what is written: give --backward DIR, or --whole"
    )
    assert refused(capsys, source, out).startswith(f"{source / 'config.json'}: can't be read")
    assert refused(capsys, tmp_path / "no", out).startswith(f"{tmp_path / 'no'}: no such folder, expected a folder that")
    assert refused(capsys, delta, out).startswith(f"{delta / 'config.json'}: format is 'svdjax-backward'")
    assert "format is 'svdjax-model', expected 'svdjax-backward'" in refused(capsys, model, out, "--backward", model)
    assert refused(capsys, model).startswith("the following arguments are required: OUT")
    assert "invalid choice: 'int8'" in refused(capsys, model, out, "--dtype", "int8")
    assert refused(capsys, model, tmp_path / "a" / "b") == f"{tmp_path}/a/b: its parent folder {tmp_path}/a does not exist"
    assert not list(tmp_path.iterdir())


def test_weights_of_another_unet_are_refused_before_the_work(model, base, tmp_path, capsys, monkeypatch):
    theirs = {name: value for name, value in base.items() if "mid_block" not in name}
    save_backward(tmp_path / "b", theirs, theirs, {})
    monkeypatch.setattr(exporting, "stream_tree", None)
    line = refused(capsys, model, tmp_path / "out", "--backward", tmp_path / "b")
    assert line.startswith(f"{tmp_path}/b/delta: lacks mid_block.")
    assert not (tmp_path / "out").exists()


def test_values_beyond_the_range_of_float16(model, base, tmp_path, capsys):
    values = svd_folders.trained(base)
    name = min(values)
    values[name] += np.float32(1e5)
    save_backward(tmp_path / "b", values, base, {}, dtype="float32")
    line = refused(capsys, model, tmp_path / "out", "--backward", tmp_path / "b", "--dtype", "float16")
    assert line == f"{model}: {name} holds 1e+05, beyond the range of float16: use another --dtype"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_existing_output(model, tuned, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(model), str(out)]) == 0
    capsys.readouterr()
    assert refused(capsys, model, out) == f"{out}: exists already; --overwrite replaces it"
    os.truncate(out / FILE, 100)
    assert main([str(model), str(out), "--overwrite"]) == 0
    assert_same(tensors(out / FILE), tensors(tuned / FILE))
    theirs = Path(shutil.copytree(tuned, tmp_path / "theirs"))
    capsys.readouterr()
    assert "was not written by this command" in refused(capsys, model, theirs, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_full_disk(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("svdjax.runtime.atomic.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 2**20))
    assert refused(capsys, model, tmp_path / "out") == f"{tmp_path / 'out'}: 0.0 GiB are needed there, 0.0 GiB are free"

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr("svdjax.diffusers_layout.safetensors_writer.struct", SimpleNamespace(pack=full))
    assert refused(capsys, model, tmp_path / "out").endswith(f"/{FILE}: can't be written: No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_whole_model(source, tuned, model, delta, tmp_path, capsys):
    """Every tensor and setting is that of the folder it was converted from; diffusers builds its pipeline from it."""
    out = tmp_path / "svd"
    assert main([str(model), str(out), "--whole"]) == 0
    assert "a whole model of" in capsys.readouterr().out
    for component in svd_folders.COMPONENTS:
        assert_same(tensors(weights_file(out, component)), tensors(weights_file(source, component)))
    assert_same(state(out / "unet_backward"), tensors(tuned / FILE))
    pipeline = StableVideoDiffusionPipeline.from_pretrained(out)
    theirs = EulerDiscreteScheduler.from_pretrained(source / "scheduler")
    for scheduler in (pipeline.scheduler, theirs):
        scheduler.set_timesteps(7)
    np.testing.assert_array_equal(pipeline.scheduler.sigmas, theirs.sigmas)
    assert list(pipeline.feature_extractor.image_mean) == svd_folders.STATISTICS["image_mean"]
    assert svd_to_flax.main([str(out), str(tmp_path / "again"), "--backward", str(out / "unet_backward")]) == 0
    assert read_info(tmp_path / "again").config == read_info(model).config
    # once more in its place, and with other backward weights
    assert main([str(model), str(out), "--whole", "--overwrite", "--backward", str(delta), "--dtype", "float16"]) == 0
    assert (state(out / "unet_backward")[TO_V] != tensors(tuned / FILE)[TO_V]).any()


def test_a_whole_model_without_backward_weights(source, forward_only, tmp_path):
    assert main([str(forward_only), str(tmp_path / "svd"), "--whole"]) == 0
    assert not (tmp_path / "svd" / "unet_backward").exists()
    assert_same(state(tmp_path / "svd" / "unet"), tensors(weights_file(source, "unet")))
