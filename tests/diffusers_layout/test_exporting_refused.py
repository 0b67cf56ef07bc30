"""Exports that are refused, and existing output: one line, nothing written."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import svd_folders
from svd_folders import UNET_FILE, assert_same, tensors

from convert.flax_to_svd import main
from svdjax.checkpoints.delta import save_backward
from svdjax.diffusers_layout import exporting

pytestmark = pytest.mark.usefixtures("quick_shapes")

refused = functools.partial(svd_folders.refused, command=main)


def test_bad_input(model, forward_only, source, trained_backward, tmp_path, capsys):
    out = tmp_path / "out"
    assert refused(capsys, forward_only, out) == (
        f"{forward_only}: has no backward weights to write: give --backward DIR, or --whole"
    )
    assert refused(capsys, source, out).startswith(f"{source}: is a diffusers folder, expected a folder that")
    assert refused(capsys, tmp_path / "no", out).startswith(f"{tmp_path / 'no'}: no such folder, expected a folder that")
    assert refused(capsys, trained_backward, out).startswith(f"{trained_backward}: holds backward weights of train.b")
    assert "is a checkpoint of svdjax, expected a folder that train.backward writes" in refused(
        capsys, model, out, "--backward", model
    )
    assert refused(capsys, model).startswith("the following arguments are required: OUT")
    assert "invalid choice: 'int8'" in refused(capsys, model, out, "--dtype", "int8")
    assert refused(capsys, model, tmp_path / "a" / "b") == f"{tmp_path}/a/b: the folder {tmp_path}/a doesn't exist"
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
    assert refused(capsys, model, out) == f"{out}: exists already (--overwrite replaces it)"
    os.truncate(out / UNET_FILE, 100)
    assert main([str(model), str(out), "--overwrite"]) == 0
    assert_same(tensors(out / UNET_FILE), tensors(tuned / UNET_FILE))
    theirs = Path(shutil.copytree(tuned, tmp_path / "theirs"))
    capsys.readouterr()
    assert "was not written by this command" in refused(capsys, model, theirs, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_full_disk(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("svdjax.runtime.atomic.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 2**20))
    assert refused(capsys, model, tmp_path / "out") == f"{tmp_path / 'out'}: needs 5.01 MiB of disk space, 1.00 MiB are free"

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr("svdjax.checkpoints.safetensors_writer.struct", SimpleNamespace(pack=full))
    assert refused(capsys, model, tmp_path / "out").endswith(f"/{UNET_FILE}: can't be written: No space left on device")
    assert not list(tmp_path.iterdir())
