"""Damaged and incomplete checkpoints, and other folders: one line that names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import svd_folders

import svdjax
from svdjax.checkpoints import checkpoint
from svdjax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_shapes")


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def change_config(**settings) -> Callable[[Path], None]:
    return lambda folder: svd_folders.edit_json(folder / "config.json", **settings)


def claim_another_width(folder: Path):
    data = json.loads((folder / "config.json").read_text())
    data["config"]["vae"]["layers_per_block"] = 2
    (folder / "config.json").write_text(json.dumps(data))


DAMAGES = {
    "nothing there": (
        shutil.rmtree,
        ": no such folder, expected a diffusers folder, a single file of a model, or a folder that convert.svd_to_flax or ",
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        ": has no model_index.json, unet/config.json or config.json, expected a diffusers folder, a single file",
    ),
    "config cut off": (lambda f: os.truncate(f / "config.json", 100), "/config.json: is not JSON"),
    "config empty": (
        lambda f: (f / "config.json").write_text("{}"),
        ": format in config.json is None, not 'svdjax-model', expected a folder that",
    ),
    "config of another shape": (
        lambda f: (f / "config.json").write_text("[]"),
        "/config.json: holds a JSON list, expected an object",
    ),
    "a newer version": (change_config(version=2), "/config.json: version is 2, svdjax .* reads 1: update svdjax"),
    "no configuration": (change_config(config={}), "/config.json: is damaged: KeyError 'unet'"),
    "no dtype": (change_config(dtype="float31"), "/config.json: is damaged: dtype is 'float31', expected one of float32"),
    "no files": (change_config(files=None), "/config.json: is damaged: it lists no files"),
    "data cut off": (lambda f: os.truncate(largest(f / "unet"), 1000), "/unet/.*: has 1,000 bytes, expected "),
    "data gone": (lambda f: largest(f / "vae").unlink(), "/vae/.*: is missing: the checkpoint is not complete"),
    "a network gone": (lambda f: shutil.rmtree(f / "image_encoder"), "/image_encoder/.*: is missing"),
    "backward weights gone": (lambda f: shutil.rmtree(f / "backward"), "/backward/.*: is missing"),
    "a network of another model": (claim_another_width, r"/vae: decoder.* is not there, expected \(64,\) \(67 tensors"),
    "tree description overwritten": (
        lambda f: (f / "unet/_METADATA").write_bytes(bytes((f / "unet/_METADATA").stat().st_size)),
        "/unet: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoints(model, tmp_path, capfd, name):
    damage, message = DAMAGES[name]
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    damage(folder)
    with pytest.raises(InputError, match=f"{folder}{message}") as e:
        svdjax.load(folder)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")


def test_a_diffusers_folder_is_not_a_checkpoint(source):
    with pytest.raises(
        InputError, match=r"is a diffusers folder, expected a folder that convert.svd_to_flax or train.base writes"
    ):
        checkpoint.load(source)
