"""Backward weights from a fine-tuned UNet, with and without a base: the tensors taken, and notes about the others."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import svd_folders
from svd_folders import assert_same, converted, temporal, tensors, weights_file

from convert.svd_to_flax import main
from svdjax.checkpoints.checkpoint import read_info

VALUES = ("to_v", "to_out.0")
ALL = ("to_q", "to_k", *VALUES)


pytestmark = pytest.mark.usefixtures("quick_shapes", "save_as_npz")


def unet_folder(path: Path, seed: int = 0, change=None, **settings: Any) -> Path:
    """Write a UNet with random weights to `path/unet`, then change them."""
    svd_folders.network("unet", seed, **settings).save_pretrained(path / "unet")
    if change is not None:
        svd_folders.edit(weights_file(path, "unet"), change)
    return path


def overlay(out: Path) -> dict[str, np.ndarray]:
    return converted(out, "backward")


def temporal_tensors(folder: Path, kinds: tuple[str, ...] = VALUES) -> dict[str, np.ndarray]:
    """The temporal self-attentions' tensors of these kinds in a folder."""
    return {name: value for name, value in tensors(weights_file(folder, "unet")).items() if temporal(name, *kinds)}


def run(capsys, *arguments) -> str:
    """Convert and return the printed text."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_tuned_values_are_taken_unchanged(source, tmp_path, capsys):
    tuned = unet_folder(tmp_path / "tuned", change=svd_folders.move_values(1))
    text = run(capsys, source, tmp_path / "out", "--backward", tuned)
    assert_same(overlay(tmp_path / "out"), temporal_tensors(tuned))
    assert any(name.endswith("to_out.0.bias") for name in overlay(tmp_path / "out"))
    assert len(text.splitlines()) == 1
    assert text.endswith(f"backward weights to_v.kernel, to_out.kernel, to_out.bias from {tuned}\n")
    # the forward network is unchanged
    assert_same(converted(tmp_path / "out", "unet"), tensors(weights_file(source, "unet")))


def test_the_checkpoint_names_and_hashes_its_sources(source, tmp_path, capsys):
    tuned = unet_folder(tmp_path / "tuned", 1, svd_folders.move_values(1))
    base = unet_folder(tmp_path / "base", 1)
    run(capsys, source, tmp_path / "out", "--backward", tuned / "unet", "--backward-base", base)
    info = read_info(tmp_path / "out")
    assert info.backward == {
        "trained": ["to_v.kernel", "to_out.kernel", "to_out.bias"],
        "source": str(tuned / "unet"),
        "base": str(base),
    }
    for prefix, folder in (("backward", tuned), ("backward-base", base)):
        for path in ((folder / "unet" / "config.json"), weights_file(folder, "unet")):
            assert info.sources[f"{prefix}/{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("inner", [True, False], ids=["UNet's folder", "folder holding unet"])
def test_delta_from_a_base(source, tmp_path, capsys, inner):
    # A base with other weights and fewer frames, like SVD beside SVD-XT, and a delta that float16 would round.
    base = unet_folder(tmp_path / "base", seed=1, num_frames=3)
    tuned = unet_folder(tmp_path / "tuned", 1, svd_folders.move_values(2, 1e-4), num_frames=3)
    folders = [path / "unet" if inner else path for path in (tuned, base)]
    text = run(capsys, source, tmp_path / "out", "--backward", folders[0], "--backward-base", folders[1])
    xt, svd, moved = temporal_tensors(source), temporal_tensors(base), temporal_tensors(tuned)
    assert all((moved[name] != svd[name]).any() for name in svd)
    assert_same(overlay(tmp_path / "out"), {name: xt[name] + (moved[name] - svd[name]) for name in xt})
    assert text.endswith(f" from {folders[0]} minus {folders[1]}\n")
    assert len(text.splitlines()) == 1


def test_delta_is_cast_last(source, tmp_path, capsys):
    base = unet_folder(tmp_path / "base", 1)
    tuned = unet_folder(tmp_path / "tuned", 1, svd_folders.move_values(2, 1e-3))
    run(capsys, source, tmp_path / "out", "--backward", tuned, "--backward-base", base, "--dtype", "float16")
    xt, svd, moved = temporal_tensors(source), temporal_tensors(base), temporal_tensors(tuned)
    assert_same(overlay(tmp_path / "out"), {name: (xt[name] + (moved[name] - svd[name])).astype(np.float16) for name in xt})


def test_queries_and_keys_are_taken_when_they_were_trained(source, tmp_path, capsys):
    tuned = unet_folder(tmp_path / "tuned", change=svd_folders.move(ALL, 1))
    text = run(capsys, source, tmp_path / "out", "--backward", tuned)
    assert_same(overlay(tmp_path / "out"), temporal_tensors(tuned, ALL))
    trained = (read_info(tmp_path / "out").backward or {})["trained"]
    assert trained[3:] == ["to_q.kernel", "to_k.kernel"]
    assert len(text.splitlines()) == 1


def test_queries_and_keys_with_a_base(source, tmp_path, capsys):
    base = unet_folder(tmp_path / "base", 1)
    tuned = unet_folder(tmp_path / "tuned", 1, svd_folders.move(("to_q",), 2))  # one changed kind is enough
    run(capsys, source, tmp_path / "out", "--backward", tuned, "--backward-base", base)
    xt, svd, moved = temporal_tensors(source, ALL), temporal_tensors(base, ALL), temporal_tensors(tuned, ALL)
    assert_same(overlay(tmp_path / "out"), {name: xt[name] + (moved[name] - svd[name]) for name in xt})


def test_queries_and_keys_of_another_model_are_not_taken(source, tmp_path, capsys):
    tuned = unet_folder(tmp_path / "tuned", 1)
    text = run(capsys, source, tmp_path / "out", "--backward", tuned)
    assert_same(overlay(tmp_path / "out"), temporal_tensors(tuned))
    before, after = tensors(weights_file(source, "unet")), tensors(weights_file(tuned, "unet"))
    others = sum((before[name] != after[name]).any() and not temporal(name, *VALUES) for name in before)
    assert others > 300
    assert text.splitlines()[0] == (
        f"{weights_file(tuned, 'unet')}: {others:,} other tensors that differ from {weights_file(source, 'unet')} "
        "are not used: if it was tuned from another model, give that as --backward-base"
    )


def test_tensors_that_differ_from_the_base_are_counted(source, tmp_path, capsys):
    base = unet_folder(tmp_path / "base", 1)

    def change(values):
        svd_folders.move(ALL, 2)(values)
        values["conv_in.bias"] += 1

    tuned = unet_folder(tmp_path / "tuned", 1, change)
    text = run(capsys, source, tmp_path / "out", "--backward", tuned, "--backward-base", base)
    assert f": 1 other tensors that differ from {weights_file(base, 'unet')} are not used: is that its base?" in text
    assert sorted(overlay(tmp_path / "out")) == sorted(temporal_tensors(source, ALL))


def test_comparison_is_in_the_narrower_dtype(source, tmp_path, capsys):
    """A float16 file of the same weights differs from a float32 file by rounding alone: no other tensor counts as trained."""

    def rounding(values):  # digits that float16 can't hold
        for value in values.values():
            value *= 1 + 1e-5

    fine = Path(shutil.copytree(source, tmp_path / "fine"))
    svd_folders.edit(weights_file(fine, "unet"), rounding)

    def change(values):
        rounding(values)
        svd_folders.move_values(1)(values)
        for name in values:
            values[name] = values[name].half()

    tuned = unet_folder(tmp_path / "tuned", change=change)
    text = run(capsys, fine, tmp_path / "out", "--backward", tuned)
    assert_same(overlay(tmp_path / "out"), temporal_tensors(tuned))
    assert len(text.splitlines()) == 1


def test_unused_float16_files_are_reported(source, tmp_path, capsys):
    tuned = unet_folder(tmp_path / "tuned", change=svd_folders.move_values(1))
    base = Path(shutil.copytree(source / "unet", tmp_path / "base"))
    for folder in (tuned / "unet", base):
        file = folder / "diffusion_pytorch_model.safetensors"
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    lines = run(capsys, source, tmp_path / "out", "--backward", tuned, "--backward-base", base).splitlines()
    for line, folder in zip(lines, (tuned / "unet", base), strict=False):
        file = folder / "diffusion_pytorch_model.safetensors"
        assert line == f"{file} is used, diffusion_pytorch_model.fp16.safetensors beside it is not"


def test_an_untrained_unet_is_reported(source, tmp_path, capsys):
    text = run(capsys, source, tmp_path / "out", "--backward", source)
    file = weights_file(source, "unet")
    assert text.splitlines()[0] == f"{file}: to_v and to_out are equal in {file}: nothing was trained"


def nan(values):
    values["mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing: no such folder"),
        ("pickled", "pickled/unet/diffusion_pytorch_model.bin: .bin files are pickles"),
        ("other", "other/unet/config.json: block_out_channels is (64, 64), expected (32, 64) as in the model's UNet"),
        ("heads", "heads/unet/config.json: num_attention_heads is (1, 2), expected (2, 4) as in the model's UNet"),
        ("vae", "vae/config.json: vae: "),
        ("lacking", "lacking/unet/diffusion_pytorch_model.safetensors: lacks conv_in.bias"),
        (
            "nan",
            "nan/unet/diffusion_pytorch_model.safetensors: mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.",
        ),
    ],
)
@pytest.mark.parametrize("option", ["--backward", "--backward-base"])
def test_bad_folders(source, tmp_path, capsys, name, message, option):
    folder = tmp_path / "in" / name
    match name:
        case "pickled":
            weights_file(unet_folder(folder), "unet").rename(folder / "unet" / "diffusion_pytorch_model.bin")
        case "other":
            unet_folder(folder, block_out_channels=(64, 64))
        case "heads":
            unet_folder(folder, num_attention_heads=(1, 2))
        case "vae":
            shutil.copytree(source / "vae", folder)
            message = message.replace("vae: ", "unet: _class_name is 'AutoencoderKLTemporalDecoder'")
        case "lacking":
            unet_folder(folder, change=lambda values: values.pop("conv_in.bias"))
        case "nan":
            unet_folder(folder, change=nan)
    (tmp_path / "out").mkdir()
    arguments = [option, folder] if option == "--backward" else ["--backward", source, option, folder]
    assert main([str(argument) for argument in (source, tmp_path / "out" / "model", *arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'in'}/{message}")
    assert not list((tmp_path / "out").iterdir())


def test_a_base_alone_is_refused(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--backward-base", str(source)]) == 2
    assert capsys.readouterr().err == "error: --backward-base: is given without --backward, expected both\n"
