"""Conversion of whole folders: every value, all kinds of files, all dtypes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import svd_folders
import torch
from svd_folders import COMPONENTS, assert_holds, converted, tensors, weights_file

from convert.svd_to_flax import main
from svdjax.checkpoints.checkpoint import read_info

pytestmark = pytest.mark.usefixtures("quick_shapes")


@pytest.fixture
def copy(source, tmp_path) -> Path:
    """A copy of `source` that a test may change."""
    return Path(shutil.copytree(source, tmp_path / "svd"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_value(source, tmp_path, capsys, dtype):
    out = tmp_path / "out"
    arguments = [] if dtype == "float32" else ["--dtype", dtype]
    assert main([str(source), str(out), *arguments]) == 0
    assert_holds(out, source, dtype)
    captured = capsys.readouterr()
    count = sum(value.size for component in COMPONENTS for value in tensors(weights_file(source, component)).values())
    assert captured.out.startswith(f"{out}: {count:,} parameters (unet ")
    assert f" in {dtype}, " in captured.out
    assert captured.out.endswith("; no backward weights\n")
    assert captured.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.usefixtures("save_as_npz")
def test_configuration_and_hashes(source, tmp_path):
    out = tmp_path / "out"
    assert main([str(source), str(out)]) == 0
    info = read_info(out)
    assert info.dtype == "float32"
    assert info.backward is None
    assert info.config.unet.block_out_channels == (32, 64)
    assert info.config.unet.num_frames == 5
    assert info.config.vae.block_out_channels == (32, 64)
    assert info.config.image_encoder.projection_dim == 48
    assert info.config.image_encoder.image_mean == (0.5, 0.4, 0.3)
    assert info.config.image_encoder.image_std == (0.25, 0.5, 0.75)
    assert info.config.scheduler.sigma_max == 700
    read = [weights_file(source, component) for component in COMPONENTS]
    read += [source / component / "config.json" for component in COMPONENTS]
    read += [source / "scheduler/scheduler_config.json", source / "feature_extractor/preprocessor_config.json"]
    assert info.sources == {str(p.relative_to(source)): hashlib.sha256(p.read_bytes()).hexdigest() for p in read}


@pytest.mark.usefixtures("save_as_npz")
def test_clip_statistics_are_optional(copy, tmp_path):
    shutil.rmtree(copy / "feature_extractor")
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert read_info(tmp_path / "out").config.image_encoder.image_mean == (0.48145466, 0.4578275, 0.40821073)


def rewrite(folder: Path, component: str, **options: Any) -> None:
    """Let diffusers or transformers write a component's weights again with `variant` or `max_shard_size`."""
    for path in (folder / component).glob("*.safetensors"):
        path.unlink()
    module = svd_folders.network(component)
    (module.half() if options.get("variant") == "fp16" else module).save_pretrained(folder / component, **options)


@pytest.mark.usefixtures("save_as_npz")
@pytest.mark.parametrize(
    "options",
    [
        {name: {"variant": "fp16"} for name in COMPONENTS},
        {"unet": {"variant": "fp16"}},
        {"vae": {"variant": "fp16"}, "image_encoder": {"variant": "fp16"}},
        {name: {"max_shard_size": "300KB"} for name in COMPONENTS},
        {name: {"max_shard_size": "200KB", "variant": "fp16"} for name in COMPONENTS},
        {name: {"variant": "bf16"} for name in COMPONENTS},
        {name: {"max_shard_size": "200KB", "variant": "bf16"} for name in COMPONENTS},
        {"unet": {"variant": "bf16"}, "vae": {"variant": "fp16"}},
    ],
    ids=["fp16", "mixed", "mixed other way", "shards", "fp16 shards", "bf16", "bf16 shards", "bf16 and fp16"],
)
def test_float16_files_and_several_files(source, copy, tmp_path, options):
    for component, saved in options.items():
        rewrite(copy, component, **saved)
        if "max_shard_size" in saved and component == "unet":
            assert len(list((copy / component).glob("*-of-*.safetensors"))) > 1
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert_holds(tmp_path / "out", source)
    sources = read_info(tmp_path / "out").sources
    unread = ("model_index.json",)
    files = [path for path in copy.rglob("*.*") if path.is_file() and path.name not in unread]
    assert sorted(sources) == sorted(str(path.relative_to(copy)) for path in files)


@pytest.mark.usefixtures("save_as_npz")
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_index_named_like_a_file_with_its_variant(source, copy, tmp_path, variant):
    rewrite(copy, "unet", max_shard_size="200KB", variant=variant)
    (index,) = (copy / "unet").glob("*.index*.json")
    index.rename(index.with_name(f"diffusion_pytorch_model.{variant}.safetensors.index.json"))
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert_holds(tmp_path / "out", source)


@pytest.mark.usefixtures("save_as_npz")
def test_unused_float16_files_are_reported(source, copy, tmp_path, capsys):
    half = weights_file(copy, "vae", ".fp16")
    shutil.copy(weights_file(copy, "vae"), half)
    svd_folders.edit(half, lambda values: [value.zero_() for value in values.values()])
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert_holds(tmp_path / "out", source)
    assert f"{weights_file(copy, 'vae')} is used, {half.name} beside it is not" in capsys.readouterr().out


@pytest.mark.usefixtures("save_as_npz")
def test_float16_is_used_before_bfloat16(source, copy, tmp_path, capsys):
    half, brain = (weights_file(copy, "vae", ending) for ending in (".fp16", ".bf16"))
    weights_file(copy, "vae").rename(half)
    shutil.copy(half, brain)
    svd_folders.edit(brain, lambda values: [value.zero_() for value in values.values()])
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert_holds(tmp_path / "out", source)
    assert f"{half} is used, {brain.name} beside it is not" in capsys.readouterr().out


@pytest.mark.usefixtures("save_as_npz")
def test_bfloat16_and_float64_sources(source, copy, tmp_path):
    svd_folders.edit(weights_file(copy, "unet"), lambda v: v.update({k: x.bfloat16() for k, x in v.items()}))
    svd_folders.edit(weights_file(copy, "vae"), lambda v: v.update({k: x.double() for k, x in v.items()}))
    assert main([str(copy), str(tmp_path / "out")]) == 0
    rounded = {k: torch.tensor(v).bfloat16().float().numpy() for k, v in tensors(weights_file(source, "unet")).items()}
    for name, value in converted(tmp_path / "out", "unet").items():
        np.testing.assert_array_equal(value, rounded[name])
    for name, value in converted(tmp_path / "out", "vae").items():
        np.testing.assert_array_equal(value, tensors(weights_file(source, "vae"))[name])


@pytest.mark.usefixtures("save_as_npz")
def test_position_ids_of_older_files_are_ignored(source, copy, tmp_path):
    ids = {"vision_model.embeddings.position_ids": torch.arange(50)[None]}
    svd_folders.edit(weights_file(copy, "image_encoder"), lambda values: values.update(ids))
    assert main([str(copy), str(tmp_path / "out")]) == 0
    assert_holds(tmp_path / "out", source)
    stored = read_info(tmp_path / "out").sources["image_encoder/model.safetensors"]
    assert stored == hashlib.sha256(weights_file(copy, "image_encoder").read_bytes()).hexdigest()
