"""`svdjax.load`: the embedded model, a checkpoint and a diffusers folder give the same model; the public names."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import svd_folders

import svdjax
from convert.flax_to_svd import main as export
from convert.svd_to_flax import main as convert
from svdjax import embedded_model, loading, pipeline
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import base_tensors, save_backward
from svdjax.model_sources import trained_kinds_of
from svdjax.models.backward import QUERIES, VALUES
from svdjax.models.svd import leaves


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model in diffusers layout, a UNet tuned from another base, and both converted."""
    folder = tmp_path_factory.mktemp("loading")
    svd_folders.write(folder / "source")
    for name, seed in (("base", 2), ("tuned", 3)):
        svd_folders.network("unet", seed=seed).save_pretrained(folder / name)
    words = ["--backward", str(folder / "tuned"), "--backward-base", str(folder / "base")]
    assert convert([str(folder / "source"), str(folder / "checkpoint"), *words]) == 0
    return folder


def assert_equal(a: svdjax.SVD, b: svdjax.SVD) -> None:
    assert a.config == b.config
    for name in ("unet", "vae", "image_encoder"):
        ours, theirs = leaves(getattr(a, name)), leaves(getattr(b, name))
        assert ours.keys() == theirs.keys()
        for leaf, value in ours.items():
            assert value.dtype == theirs[leaf].dtype, leaf
            np.testing.assert_array_equal(value, theirs[leaf])
    assert (a.backward is None) is (b.backward is None)
    for leaf, value in (a.backward or {}).items():
        np.testing.assert_array_equal(value, b.backward[leaf])


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_diffusers_folder_is_the_converted_model(folder, dtype):
    direct = svdjax.load(folder / "source", dtype=dtype, backward=folder / "tuned", backward_base=folder / "base")
    assert_equal(direct, svdjax.load(folder / "checkpoint", dtype=dtype))
    assert direct.unet.dtype == jnp.dtype(dtype or "float32")
    assert not direct.defaults


@pytest.mark.parametrize("name", ["source", "checkpoint"])
def test_weights_stay_in_host_memory(folder, name):
    backward = {"backward": folder / "tuned", "backward_base": folder / "base"} if name == "source" else {}
    offloaded = svdjax.load(folder / name, offload=True, **backward)
    assert_in_host_memory(offloaded)
    assert_equal(offloaded, svdjax.load(folder / name, **backward))
    with pytest.raises(svdjax.InputError, match=r"offload: .*expected only one of the two"):
        svdjax.load(folder / name, offload=True, shardings=lambda name, shape: None)


def assert_in_host_memory(model: svdjax.SVD) -> None:
    tensors = jax.tree.leaves((model.unet, model.vae, model.image_encoder, model.backward))
    assert all(isinstance(x, np.ndarray) for x in tensors)


@pytest.mark.heavy
def test_a_trained_difference_beside_a_diffusers_folder(folder, tmp_path):
    base = base_tensors(folder / "checkpoint")
    values = {name: value + 0.25 for name, value in base.items()}
    save_backward(tmp_path / "backward", values, base, {"sources": read_info(folder / "checkpoint").sources})
    direct = svdjax.load(folder / "source", backward=tmp_path / "backward")
    assert_equal(direct, svdjax.load(folder / "checkpoint", backward=tmp_path / "backward"))
    source = loading.find_model(folder / "source")
    assert source.transfer_note(tmp_path / "backward") is None
    assert trained_kinds_of(tmp_path / "backward") == list(VALUES)
    for name in ("source", "checkpoint"):  # differences are added in host memory, to the same sums
        offloaded = svdjax.load(folder / name, backward=tmp_path / "backward", dtype="bfloat16", offload=True)
        assert_in_host_memory(offloaded)
        assert_equal(offloaded, svdjax.load(folder / name, backward=tmp_path / "backward", dtype="bfloat16"))


def test_an_exported_model_brings_its_backward_unet(folder, tmp_path):
    assert export([str(folder / "checkpoint"), str(tmp_path / "whole"), "--whole"]) == 0
    assert_equal(svdjax.load(tmp_path / "whole"), svdjax.load(folder / "checkpoint"))


def test_the_embedded_model_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()  # a folder of that name is ./embedded
    model = svdjax.load("embedded")
    assert model.config.unet.num_frames == 8
    assert model.unet.dtype == jnp.float32  # on a CPU
    assert pipeline.settings_for(model).steps == embedded_model.DEFAULTS["steps"]
    assert pipeline.settings_for(model, steps=3).recurrence == embedded_model.DEFAULTS["recurrence"]
    assert set(loading.find_model(None, "no-rotation").trained_kinds()) == {*VALUES, *QUERIES}
    with pytest.raises(svdjax.InputError, match=r"embedded: has no model_index.json, unet/config.json or config.json"):
        svdjax.load("./embedded")


def test_what_is_no_model(folder, tmp_path):
    with pytest.raises(svdjax.InputError, match="nowhere: no such folder"):
        svdjax.load(tmp_path / "nowhere")
    with pytest.raises(svdjax.InputError, match="is a diffusers folder, expected a checkpoint"):
        loading.checkpoint_folder(folder / "source")
    with pytest.raises(svdjax.InputError, match="is a checkpoint, backward_base needs a diffusers folder"):
        svdjax.load(folder / "checkpoint", backward_base=folder / "base")
    (tmp_path / "config.json").write_text(json.dumps({"format": "svdjax-model"}))
    with pytest.raises(svdjax.InputError, match=r"is a checkpoint of svdjax, expected a folder that train.backward writes"):
        trained_kinds_of(tmp_path)


def test_public_names():
    """Those for type checkers are those that are imported on first use; all of them can be."""
    tree = ast.parse(Path(svdjax.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == svdjax._MODULE_OF
    assert set(svdjax.__all__) == set(names) < set(dir(svdjax))
    for name in names:
        assert getattr(svdjax, name).__doc__, name


def test_importing_it_loads_nothing_large():
    code = "import sys, svdjax; print(any(name in sys.modules for name in ('jax', 'numpy', 'flax', 'orbax', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
