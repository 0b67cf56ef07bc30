"""Backward weights that can't be saved or used: one line, nothing written, no tensors of the model read."""

from __future__ import annotations

import os

import numpy as np
import pytest
import svd_folders
from svd_folders import Tensors, trained

import svdjax
from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.delta import read_backward_info, save_backward
from svdjax.errors import InputError
from svdjax.models.backward import VALUES

pytestmark = pytest.mark.usefixtures("quick_shapes")

FIRST = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_v.kernel"


def put(number: float):
    def change(values: Tensors):
        values[FIRST][0, 0] = number

    return change


UNSAVABLE = {
    "NaN": (put(np.nan), f": {FIRST} differs from its base by 1 NaN or infinite values of 1,024"),
    "too large": (put(7e4), f": the difference of {FIRST} from its base holds 7e.04, beyond the range of float16: use another"),
    "incomplete": (lambda v: v.pop(FIRST), f": the values to save: lacks {FIRST}"),
    "unknown": (lambda v: v.update({"conv_in.bias": np.zeros(32)}), ": the values to save: has unexpected conv_in.bias"),
    "shape": (lambda v: v.update({FIRST: np.zeros((3, 4))}), rf": the values to save: {FIRST} has shape \(3, 4\)"),
}


@pytest.mark.parametrize("name", UNSAVABLE)
def test_values_that_can_not_be_saved(base, tmp_path, name):
    change, message = UNSAVABLE[name]
    values = trained(base)
    change(values)
    with pytest.raises(InputError, match=f"{tmp_path}/b{message}") as e:
        save_backward(tmp_path / "b", values, base, {})
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_saving_replaces_only_backward_weights(model, base, tmp_path):
    values = trained(base)
    save_backward(tmp_path / "b", values, base, {"step": 1})
    with pytest.raises(InputError, match="exists already"):
        save_backward(tmp_path / "b", values, base, {"step": 2})
    save_backward(tmp_path / "b", values, base, {"step": 2}, overwrite=True)
    assert read_backward_info(tmp_path / "b")["step"] == 2
    before = (model / "config.json").read_bytes()
    with pytest.raises(InputError, match="was not written by this command"):
        save_backward(model, values, base, {}, overwrite=True)
    assert (model / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


ANOTHER_UNET = {
    "fewer layers": (lambda o: [o.pop(n) for n in list(o) if n.startswith("mid_block.")], "lacks mid_block.* and 2 more"),
    "more layers": (lambda o: o.update({f"x.{n}": v for n, v in o.items()}), "has unexpected x.down_blocks.0.* and 11 more"),
    "another width": (
        lambda o: o.update({FIRST: o[FIRST][:, :3]}),
        rf"{FIRST} has shape \(32, 3\), expected \(32, 32",
    ),
}


@pytest.mark.parametrize("name", ANOTHER_UNET)
def test_backward_weights_of_another_unet(model, base, tmp_path, monkeypatch, name):
    change, message = ANOTHER_UNET[name]
    theirs = {name: value for name, value in base.items() if name.endswith(VALUES)}
    change(theirs)
    save_backward(tmp_path / "b", theirs, theirs, {})
    monkeypatch.setattr(checkpoint, "restore_tree", None)
    with pytest.raises(InputError, match=f"{tmp_path}/b/delta: {message}"):
        svdjax.load(model, backward=tmp_path / "b")


def test_folders_of_another_format(model, base, tmp_path):
    with pytest.raises(InputError, match=r"is a checkpoint of svdjax, expected a folder that train.backward writes"):
        svdjax.load(model, backward=model)
    with pytest.raises(InputError, match=f"{tmp_path}/no: no such folder, expected a folder that train.backward writes"):
        svdjax.load(model, backward=tmp_path / "no")
    save_backward(tmp_path / "b", trained(base), base, {})
    for version, advice in ((1, "make it again with train.backward"), (3, "update svdjax"), (None, "update svdjax")):
        svd_folders.edit_json(tmp_path / "b/config.json", version=version)
        with pytest.raises(InputError, match=f"version is {version}, svdjax .* reads 2: {advice}"):
            svdjax.load(model, backward=tmp_path / "b")
    svd_folders.edit_json(tmp_path / "b/config.json", version=2, backward=None)
    with pytest.raises(InputError, match=r"config.json: is damaged: it has no information about the backward weights"):
        svdjax.load(model, backward=tmp_path / "b")


def test_damaged_folder(model, base, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {})
    data = max((path for path in (tmp_path / "b").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(data, 100)
    with pytest.raises(InputError, match=f"{data}: has 100 bytes, expected "):
        svdjax.load(model, backward=tmp_path / "b")
