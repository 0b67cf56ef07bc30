"""Backward weights in one file: written, read back everywhere, the same as the folder, and refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import svd_folders
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from svd_folders import refused

import svdjax
from convert.flax_to_svd import main as export
from svdjax.checkpoints import backward_file, delta
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import save_backward
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.model_sources import trained_kinds_of
from svdjax.models.backward import VALUES

pytestmark = pytest.mark.usefixtures("quick_shapes")


@pytest.fixture(scope="module")
def folder(model, base, tmp_path_factory) -> Path:
    """Backward weights as `train.backward` writes them."""
    path = tmp_path_factory.mktemp("run") / "backward"
    save_backward(path, svd_folders.trained(base), base, {"sources": read_info(model).sources, "steps": 3})
    return path


@pytest.fixture(scope="module")
def file(model, folder) -> Path:
    """The same in one file."""
    path = folder.with_name("backward.safetensors")
    assert export([str(model), str(path), "--only-trained", "--backward", str(folder)]) == 0
    return path


def test_the_same_as_the_folder(folder, file, model, source):
    assert delta.content(file) == delta.content(folder)
    assert delta.read_backward_info(file) == delta.read_backward_info(folder)
    expected, found = (svdjax.load(model, backward=path).backward for path in (folder, file))
    svd_folders.assert_same(found, expected)
    direct = svdjax.load(source, backward=file).backward  # added to a diffusers folder's own tensors
    svd_folders.assert_same(direct, expected)
    assert find_model(model).transfer_note(file) is None
    assert set(trained_kinds_of(file)) == set(svd_folders.TRAINED)


def test_added_to_pytorchs_tensors(folder, file, source):
    """Names and axes are diffusers'."""
    unet = svd_folders.tensors(svd_folders.weights_file(source, "unet"))
    differences = delta.read_differences(folder)
    values = load_file(file)
    assert all(values[name].shape == unet[name].shape for name in values)
    np.testing.assert_array_equal(values[svd_folders.TO_V], differences[svd_folders.TO_V.replace("weight", "kernel")].T)
    with safe_open(file, framework="numpy") as opened:
        header = json.loads(opened.metadata()["svdjax"])
    assert (header["format"], header["backward"]["steps"]) == ("svdjax-backward", 3)
    assert header["backward"]["sources"]["unet/diffusion_pytorch_model.safetensors"]


def test_of_a_checkpoints_own_weights(model, tmp_path, capsys):
    """A checkpoint holds values: the file has their differences from the UNet, without the paths that they came from."""
    out = tmp_path / "own.safetensors"
    assert export([str(model), str(out), "--only-trained", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: backward weights {', '.join(VALUES)} in float32, ")
    assert delta.read_backward_info(out).keys() == {"trained", "sources"}
    expected, found = svdjax.load(model).backward, svdjax.load(model, backward=out).backward
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-7, err_msg=name)


def test_refused(file, model, tmp_path, capsys):
    tensors = load_file(file)
    with safe_open(file, framework="numpy") as opened:
        header = json.loads(opened.metadata()["svdjax"])
    first = next(iter(tensors))
    cases = {
        "holds no backward weights of svdjax, by its header, expected backward weights as": (tensors, None),
        "is not JSON": (tensors, "{"),
        "version is 9, svdjax .* reads 2: update svdjax": (tensors, json.dumps(header | {"version": 9})),
        "its metadata is damaged: trained is ": (tensors, json.dumps(header | {"backward": {"trained": ["x"]}})),
        "has x, expected tensors of temporal self-attentions only": (tensors | {"x": np.zeros(1)}, json.dumps(header)),
        "lacks .* as": ({k: v for k, v in tensors.items() if k != first}, json.dumps(header)),
        "has shape .*, expected": (tensors | {first: np.zeros((3, 3))}, json.dumps(header)),
        "is I8, expected one of": (tensors | {first: np.zeros_like(tensors[first], np.int8)}, json.dumps(header)),
        "holds .* NaN": (tensors | {first: np.full_like(tensors[first], np.nan)}, json.dumps(header)),
    }
    path = tmp_path / "b.safetensors"
    for message, (values, text) in cases.items():
        save_file(values, path, {} if text is None else {"svdjax": text})
        with pytest.raises(InputError, match=message.removesuffix(" as")) as caught:
            svdjax.load(model, backward=path)
        assert str(caught.value).startswith(f"{path}: ")
    path.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="is truncated"):
        trained_kinds_of(path)
    with pytest.raises(InputError, match="no such file"):
        trained_kinds_of(tmp_path / "missing.safetensors")
    line = refused(capsys, model, file, "--only-trained", command=export)
    assert line == f"OUT {file}: exists already (--overwrite replaces it)"
    assert backward_file.is_file(file)
