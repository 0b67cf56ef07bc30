"""Sources that can't be used: one line, exit status 2, nothing written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import svd_folders
import torch
from svd_folders import edit, edit_json, refused, weights_file

from convert.svd_to_flax import main

pytestmark = pytest.mark.usefixtures("quick_shapes")


def truncate(path: Path, keep: float):
    os.truncate(path, int(path.stat().st_size * keep))


def rename_tensor(values: dict[str, torch.Tensor]):
    values["conv_in.weight_old"] = values.pop("conv_in.weight")


def put(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """Put a value into a tensor."""

    def change(values: dict[str, torch.Tensor]):
        values[name].view(-1)[0] = value

    return change


def shards(folder: Path) -> list[Path]:
    """Write the UNet in several files and return them in order."""
    weights_file(folder, "unet").unlink()
    svd_folders.network("unet").save_pretrained(folder / "unet", max_shard_size="300KB")
    return sorted((folder / "unet").glob("*-of-*.safetensors"))


UNET = "unet/diffusion_pytorch_model.safetensors"
CLIP = "image_encoder/model.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
# Damage to the folder, and the message after its path.
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, ": no such folder, expected a diffusers folder"),
    "empty folder": (
        lambda f: (shutil.rmtree(f), f.mkdir()),
        ": has none of these folders, expected a diffusers folder (unet/",
    ),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "/vae: no such folder"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "/scheduler: no such folder"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "/vae/config.json: can't be read: No such file"),
    "config is not JSON": (lambda f: (f / "vae/config.json").write_text("{"), "/vae/config.json: is not JSON: "),
    "config is not text": (lambda f: (f / "vae/config.json").write_bytes(b"\xff\xfe\x00"), "/vae/config.json: is not JSON: "),
    "config is a list": (lambda f: (f / "vae/config.json").write_text("[]"), "/vae/config.json: holds a JSON list, expected"),
    "config is empty": (lambda f: (f / "vae/config.json").write_text(""), "/vae/config.json: is not JSON"),
    "another model": (
        lambda f: edit_json(f / "unet/config.json", _class_name="UNet2DConditionModel"),
        "/unet/config.json: unet: _class_name is 'UNet2DConditionModel', expected 'UNetSpatioTemporalConditionModel'",
    ),
    "another encoder": (
        lambda f: edit_json(f / "image_encoder/config.json", model_type="dinov2"),
        "/image_encoder/config.json: image_encoder: model_type is 'dinov2', expected 'clip_vision_model'",
    ),
    "a setting of another type": (
        lambda f: edit_json(f / "unet/config.json", block_out_channels=["a", "b"]),
        "/unet/config.json: unet: ",
    ),
    "components of different models": (
        lambda f: edit_json(f / "unet/config.json", cross_attention_dim=64),
        ": the UNet's cross_attention_dim is 64, the image encoder's projection_dim 48",
    ),
    "statistics": (
        lambda f: edit_json(f / "feature_extractor/preprocessor_config.json", image_mean=[0.5]),
        "/feature_extractor/preprocessor_config.json: image_mean has 1 entries",
    ),
    "no weights": (
        lambda f: (f / UNET).unlink(),
        "/unet: holds no weights, expected diffusion_pytorch_model.safetensors or diffusion_pytorch_model.fp16.safetensors",
    ),
    "empty weights": (lambda f: (f / UNET).write_bytes(b""), f"/{UNET}: is empty"),
    "truncated weights": (lambda f: truncate(f / UNET, 0.7), f"/{UNET}: is truncated: "),
    "truncated header": (lambda f: truncate(f / UNET, 0.001), f"/{UNET}: is truncated: "),
    "a few bytes": (lambda f: (f / UNET).write_bytes(b"abc"), f"/{UNET}: is not a safetensors file"),
    "a web page": (lambda f: (f / UNET).write_bytes(b"<!DOCTYPE html>" * 9), f"/{UNET}: is not a safetensors file"),
    "a pickle": (lambda f: torch.save({"a": torch.zeros(9)}, f / UNET), f"/{UNET}: is not a safetensors file"),
    "a damaged header": (
        lambda f: (f / UNET).write_bytes((9).to_bytes(8, "little") + b"{'a': 1} " + bytes(99)),
        f"/{UNET}: is not a safetensors file: its header can't be read",
    ),
    "a header of nonsense": (
        lambda f: (f / UNET).write_bytes((8).to_bytes(8, "little") + b'{"a": 1}' + bytes(99)),
        f"/{UNET}: is not a safetensors file: its header can't be read",
    ),
    "bytes after the end": (
        lambda f: (f / UNET).write_bytes((f / UNET).read_bytes() + b"more"),
        f"/{UNET}: is not a valid safetensors file: ",
    ),
    "a Git LFS pointer": (
        lambda f: (f / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"/{UNET}: is a Git LFS pointer",
    ),
    "pickled only": (
        lambda f: (f / CLIP).rename(f / "image_encoder/pytorch_model.bin"),
        "/image_encoder/pytorch_model.bin: .bin files are pickles, which can run code when opened, and are not read: load",
    ),
    "a missing tensor": (lambda f: edit(f / CLIP, lambda v: v.pop("visual_projection.weight")), f"/{CLIP}: lacks visual_pro"),
    "an unexpected tensor": (
        lambda f: edit(f / UNET, lambda v: v.update(more=torch.zeros(3))),
        f"/{UNET}: has unexpected more: not the weights that the unet's configuration describes",
    ),
    "a renamed tensor": (
        lambda f: edit(f / UNET, rename_tensor),
        f"/{UNET}: lacks conv_in.weight and has unexpected conv_in.weight_old: ",
    ),
    "another shape": (
        lambda f: edit(f / UNET, lambda v: v.update({"conv_in.weight": torch.zeros(32, 4, 3, 3)})),
        f"/{UNET}: conv_in.weight is 32x4x3x3, expected 32x8x3x3",
    ),
    "another width": (lambda f: edit_json(f / "vae/config.json", block_out_channels=[32, 32]), "/vae/diffusion_pytorch_model"),
    "integers": (
        lambda f: edit(f / UNET, lambda v: v.update({"conv_in.bias": torch.zeros(32, dtype=torch.int32)})),
        f"/{UNET}: conv_in.bias is I32, expected one of F64, F32, F16, BF16",
    ),
    "NaN": (
        lambda f: edit(f / UNET, put("conv_out.bias", float("nan"))),
        f"/{UNET}: conv_out.bias holds 1 NaN or infinite values of 4",
    ),
    "infinity": (
        lambda f: edit(f / CLIP, put("visual_projection.weight", -float("inf"))),
        f"/{CLIP}: visual_projection.weight holds 1 NaN or infinite values of 1,536",
    ),
    "a missing shard": (lambda f: shards(f)[1].unlink(), "/unet/diffusion_pytorch_model-00002-of-"),
    "a truncated shard": (lambda f: truncate(shards(f)[-1], 0.5), "/unet/diffusion_pytorch_model-000"),
    "a shard twice": (
        lambda f: (files := shards(f), shutil.copy(files[0], files[1])),
        "/unet/diffusion_pytorch_model-00002-of-",
    ),
    "an index without a map": (lambda f: (shards(f), (f / INDEX).write_text("{}")), f"/{INDEX}: has no weight_map"),
    "an index that points elsewhere": (
        lambda f: edit_json(f / INDEX, weight_map={"conv_in.bias": str(shards(f)[0])}),
        f"/{INDEX}: has no weight_map",
    ),
    "an index that names too little": (
        lambda f: edit_json(f / INDEX, weight_map={"conv_in.bias": shards(f)[0].name}),
        f"/{INDEX}: lacks ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources(source, tmp_path, capsys, name):
    damage, message = BAD[name]
    folder = Path(shutil.copytree(source, tmp_path / "in" / "svd"))
    damage(folder)
    (tmp_path / "out").mkdir()
    assert refused(capsys, folder, tmp_path / "out" / "model").startswith(f"{folder}{message}")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pt", ".pth", ".safetensors"])
def test_a_file_as_source(tmp_path, capsys, ending):
    file = tmp_path / f"svd{ending}"
    file.write_bytes(b"anything")
    line = refused(capsys, file, tmp_path / "out")
    if ending == ".safetensors":
        assert line == f"{file}: is not a safetensors file"
    else:
        assert line.startswith(f"{file}: {ending} files are pickles, which can run code when opened, and are not read: ")
        assert "save_pretrained(folder, safe_serialization=True)" in line
    assert list(tmp_path.iterdir()) == [file]


def test_values_beyond_the_range_of_float16(source, tmp_path, capsys):
    folder = Path(shutil.copytree(source, tmp_path / "svd"))
    edit(weights_file(folder, "vae"), put("quant_conv.bias", -1e6))
    line = refused(capsys, folder, tmp_path / "out", "--dtype", "float16")
    expected = "quant_conv.bias holds 1e+06, beyond the range of float16: use another --dtype"
    assert line == f"{weights_file(folder, 'vae')}: {expected}"
    assert list(tmp_path.iterdir()) == [folder]
    assert main([str(folder), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
