"""`convert.flax_to_svd --single-file`, and the way there: every value comes back, ComfyUI's encoder is the same function."""

from __future__ import annotations

import json
from pathlib import Path

import goldens
import numpy as np
import original_files
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from svd_folders import refused

from convert.flax_to_svd import main as export
from convert.svd_to_flax import main as convert
from svdjax.original_layout.name_table import UNUSED
from svdjax.original_layout.single_file import open_file

pytestmark = pytest.mark.usefixtures("quick_shapes")
CLIP = "conditioner.embedders.0.open_clip.model."


@pytest.fixture(scope="module")
def exported(single_file, tmp_path_factory) -> tuple[Path, Path]:
    """`single_file` as a checkpoint, and that as a single file again."""
    folder = tmp_path_factory.mktemp("exported")
    assert convert([str(single_file), str(folder / "model")]) == 0
    assert export([str(folder / "model"), str(folder / "out.safetensors"), "--single-file"]) == 0
    return folder / "model", folder / "out.safetensors"


def test_every_value_comes_back(single_file, exported):
    before, after = load_file(single_file), load_file(exported[1])
    assert {name for name in before if not name.startswith(UNUSED)} == after.keys()
    for name, value in after.items():
        if not name.startswith("first_stage_model.encoder."):
            np.testing.assert_array_equal(value, before[name], err_msg=name, strict=True)
    with safe_open(exported[1], framework="numpy") as file:
        config = json.loads(file.metadata()["svdjax_config"])
    assert config["unet"]["num_frames"] == 25
    assert open_file(exported[1]).config == open_file(single_file).config


def test_encoder_of_comfyui_is_the_same_function(exported, tmp_path):
    """It has no `quant_conv`; ours of such a file is an identity."""
    values = {name: value for name, value in load_file(exported[1]).items() if not name.startswith("conditioner.embedders.3.")}
    save_file(values, tmp_path / "svd.safetensors")
    plain, full = open_file(tmp_path / "svd.safetensors"), open_file(exported[1])
    last = "encoder.conv_out"
    quant, bias = (full.weights["vae"].read(f"quant_conv.{leaf}").astype(np.float64) for leaf in ("weight", "bias"))
    x = goldens.draw("x", (64, 3, 3)).astype(np.float64)  # one input of the last convolution
    found, expected = (
        np.einsum("oiyx,iyx->o", opened.weights["vae"].read(f"{last}.weight"), x) + opened.weights["vae"].read(f"{last}.bias")
        for opened in (plain, full)
    )
    assert goldens.relative(found, quant[:, :, 0, 0] @ expected + bias) < 1e-6
    for name in plain.weights["vae"].tensors:
        if not name.startswith((last, "quant_conv")):
            np.testing.assert_array_equal(plain.weights["vae"].read(name), full.weights["vae"].read(name), err_msg=name)


def test_unet_of_another_file(single_file, exported, tmp_path, save_as_npz, capsys):
    """`--unet` takes diffusers' names and Stability's, with and without a prefix."""
    from svd_folders import converted

    unet = dict(open_file(single_file).weights["unet"].stream(lambda _: None))
    moved = {name: np.ascontiguousarray(value) + np.float32(1) for name, value in unet.items()}
    stability = {
        name.removeprefix("model.diffusion_model."): value
        for name, value in load_file(exported[1]).items()
        if name.startswith("model.")
    }
    expected = converted_names(moved)
    for number, values in enumerate((moved, {f"unet.{name}": value for name, value in moved.items()})):
        save_file(values, tmp_path / "unet.safetensors")
        out = tmp_path / f"out{number}"
        assert convert([str(single_file), str(out), "--unet", str(tmp_path / "unet.safetensors")]) == 0
        assert "unet.safetensors: its UNet is used instead of" in capsys.readouterr().out
        assert converted_names(converted(out, "unet")) == expected
        assert not json.loads((out / "config.json").read_text())["sources"].keys() - {"unet", "vae", "image_encoder"}
    save_file(stability, tmp_path / "unet.safetensors")
    assert convert([str(single_file), str(tmp_path / "same"), "--unet", str(tmp_path / "unet.safetensors")]) == 0
    assert converted_names(converted(tmp_path / "same", "unet")) == converted_names(unet)
    capsys.readouterr()
    stability.pop("out.2.bias")
    save_file(stability, tmp_path / "unet.safetensors")
    line = refused(capsys, single_file, tmp_path / "no", "--unet", tmp_path / "unet.safetensors", command=convert)
    assert line.endswith(
        "unet.safetensors: lacks out.2.bias: not the weights that the model's UNet has, expected a UNet of the same "
        "configuration"
    )


def converted_names(tensors: original_files.Tensors) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(value, np.float32).tobytes() for name, value in tensors.items()}


def test_refused(exported, tmp_path, capsys):
    model, out = exported
    for arguments, message in [
        ((model, tmp_path / "out"), f"OUT {tmp_path / 'out'}: expected a file name ending in .safetensors"),
        ((model, out), f"OUT {out}: exists already (--overwrite replaces it)"),
        ((model, tmp_path / "new.safetensors", "--backward", model), "--backward: is given with --single-file, "),
        (
            (model, tmp_path / "no" / "new.safetensors"),
            f"OUT {tmp_path / 'no' / 'new.safetensors'}: the folder {tmp_path / 'no'}",
        ),
    ]:
        assert refused(capsys, *arguments, "--single-file", command=export).startswith(message)
    (tmp_path / "x.safetensors").write_text("precious")
    line = refused(capsys, model, tmp_path / "x.safetensors", "--single-file", "--overwrite", command=export)
    assert "exists and was not written by this command" in line
    assert not list(tmp_path.glob(".*"))
    line = refused(capsys, out, tmp_path / "no", "--num-frames", "0", command=convert)
    assert line.startswith(f"{out}: num_frames is 0, expected a whole number from 1")
