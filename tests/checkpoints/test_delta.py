"""Folders of backward weights: what they store, and the tensors they give with their own and with another model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import svd_folders
from svd_folders import TRAINED, Tensors, assert_same, trained

import svdjax
from convert.svd_to_flax import main
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import base_tensors, content, read_backward_info, save_backward, transfer_note
from svdjax.checkpoints.orbax_trees import restore_tree, tree_shapes
from svdjax.models.backward import QUERIES, VALUES
from svdjax.models.svd import leaves

pytestmark = pytest.mark.usefixtures("quick_shapes")


def stored(folder: Path) -> Tensors:
    return {name: np.asarray(value) for name, value in restore_tree(folder / "delta", tree_shapes(folder / "delta")).items()}


def added(base: Tensors, folder: Path) -> Tensors:
    """The definition: base + difference in float32."""
    return {name: base[name] + value.astype(np.float32) for name, value in stored(folder).items()}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_with_its_own_model_it_gives_the_trained_tensors(model, base, tmp_path, dtype):
    values = trained(base)
    save_backward(tmp_path / "b", {n: jnp.asarray(v) for n, v in values.items()}, base, {"steps": 7}, dtype=dtype)
    loaded = svdjax.load(model, backward=str(tmp_path / "b"))
    differences = stored(tmp_path / "b")
    assert {value.dtype for value in differences.values()} == {np.dtype(dtype)}
    assert loaded.backward is not None
    assert_same(loaded.backward, added(base, tmp_path / "b"))
    for name, value in values.items():
        # the difference is rounded to the dtype's 11 or 24 bits, the sum to float32
        rounding = np.abs(value - base[name]) * 2.0 ** (-11 if dtype == "float16" else -24) + 2 * np.spacing(np.abs(value))
        assert (np.abs(loaded.backward[name] - value) <= rounding + 2.0**-25).all()  # the smallest step of float16
        assert (np.asarray(loaded.backward[name]) != base[name]).mean() > 0.9
    # the forward UNet is unchanged
    unet = leaves(loaded.unet)
    assert all((np.asarray(unet[name]) == value).all() for name, value in base.items())
    assert read_backward_info(tmp_path / "b") == {"steps": 7, "trained": list(TRAINED)}


def test_content_differs_where_tensors_do(base, tmp_path):
    values = trained(base)
    save_backward(tmp_path / "a", values, base, {"steps": 7})
    save_backward(tmp_path / "again", values, base, {"steps": 7})
    name = min(values)
    values[name] = np.asarray(values[name]).copy()
    values[name].flat[0] += 0.5
    save_backward(tmp_path / "b", values, base, {"steps": 7})
    assert content(tmp_path / "a") == content(tmp_path / "again")
    assert content(tmp_path / "a")[0] == content(tmp_path / "b")[0] == read_backward_info(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "b")


@pytest.mark.parametrize("kinds", [TRAINED, (*TRAINED, "to_out.bias"), (*TRAINED, *QUERIES), ("to_q.kernel",)])
def test_other_tensors_are_stored_unchanged(model, base, tmp_path, kinds):
    values = trained(base, kinds)
    save_backward(tmp_path / "b", values, base, {})
    assert read_backward_info(tmp_path / "b")["trained"] == [kind for kind in VALUES + QUERIES if kind in kinds]
    loaded = svdjax.load(model, backward=tmp_path / "b").backward
    assert loaded is not None
    complete = VALUES + QUERIES if set(kinds) & set(QUERIES) else VALUES
    assert sorted(loaded) == sorted(name for name in base if name.endswith(complete))
    for name, value in loaded.items():
        assert (np.asarray(value) == base[name]).all() == (name not in values)


def test_the_sum_uses_stored_tensors_and_is_cast_last(model, base, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {})
    half = svdjax.load(model, dtype="bfloat16", backward=tmp_path / "b")
    expected = added(base, tmp_path / "b")
    assert half.backward is not None
    assert_same(half.backward, {name: value.astype(jnp.bfloat16) for name, value in expected.items()})
    # rounding the model first would give other values
    unet, differences = leaves(half.unet), stored(tmp_path / "b")
    rounded = {n: (np.asarray(unet[n], np.float32) + v.astype(np.float32)).astype(jnp.bfloat16) for n, v in differences.items()}
    assert any((rounded[name] != np.asarray(half.backward[name])).any() for name in rounded)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A model with other weights and another number of frames, like SVD-XT beside SVD; stored in bfloat16."""
    folder = tmp_path_factory.mktemp("other")
    svd_folders.write(folder / "svd", seed=3, unet={"num_frames": 7})
    assert main([str(folder / "svd"), str(folder / "model"), "--dtype", "bfloat16"]) == 0
    return folder / "model"


def test_transfer_to_another_model(model, base, other, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {"sources": read_info(model).sources})
    xt = {name: np.asarray(value) for name, value in base_tensors(other).items()}
    assert {value.dtype for value in xt.values()} == {np.dtype(np.float32)}
    loaded = svdjax.load(other, dtype="float32", backward=tmp_path / "b")
    assert loaded.backward is not None
    assert_same(loaded.backward, added(xt, tmp_path / "b"))
    assert not any((np.asarray(loaded.backward[name]) == added(base, tmp_path / "b")[name]).all() for name in trained(base))
    note = transfer_note(tmp_path / "b", read_info(other).sources)
    assert note == f"{tmp_path / 'b'}: trained from another UNet than the model's: transferred as a difference"
    assert transfer_note(tmp_path / "b", read_info(model).sources) is None


def test_transfer_between_models_trained_with_svdjax(base, tmp_path):
    """They have a hash of a whole tree (`svdjax.checkpoints.checkpoint.save`) in place of hashes of files."""
    save_backward(tmp_path / "b", trained(base), base, {"sources": {"unet": "a", "vae": "b"}})
    assert transfer_note(tmp_path / "b", {"unet": "a", "vae": "c"}) is None
    note = transfer_note(tmp_path / "b", {"unet": "b", "vae": "b"})
    assert note is not None
    assert note.endswith("transferred as a difference")


def test_no_note_about_weights_of_unknown_origin(model, base, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {})
    assert transfer_note(tmp_path / "b", read_info(model).sources) is None


def test_shardings(model, base, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {})
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    asked = set()

    def place(name: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        asked.add(name)
        return sharding

    loaded = svdjax.load(model, backward=tmp_path / "b", shardings=place)
    assert loaded.backward is not None
    assert {name for name in asked if name.startswith("backward.")} == {f"backward.{name}" for name in loaded.backward}
    assert {value.sharding for value in loaded.backward.values()} == {sharding}
    assert {value.sharding for value in base_tensors(model, VALUES, place).values()} == {sharding}


ONE_OF_TWO = """
import sys, jax
from pathlib import Path
from svdjax.checkpoints.delta import base_tensors, save_backward
port, process, model, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
assert jax.process_count() == 2
if process == "0":
    base = base_tensors(Path(model))
    save_backward(out, {name: value + 1 for name, value in base.items()}, base, {})
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("the first has written")
if process == "1":
    base = base_tensors(Path(model))
    try:
        save_backward(out + "1", base, base, {})
    except RuntimeError as e:
        assert "only process 0 can" in str(e)
    else:
        raise AssertionError("written")
multihost_utils.sync_global_devices("end")
"""


def test_process_0_writes_without_waiting_for_others(model, base, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-c", ONE_OF_TWO, str(port)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    runs = [subprocess.Popen([*command, str(i), str(model), str(tmp_path / "b")], env=environment) for i in range(2)]
    try:
        assert [run.wait(timeout=90) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    loaded = svdjax.load(model, backward=tmp_path / "b")
    assert loaded.backward is not None
    assert_same(loaded.backward, added(base, tmp_path / "b"))


def test_version_and_contents_of_the_folder(base, tmp_path):
    save_backward(tmp_path / "b", trained(base), base, {"steps": 3})
    data = json.loads((tmp_path / "b/config.json").read_text())
    assert (data["format"], data["version"], data["dtype"]) == ("svdjax-backward", 2, "float16")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", "delta"]


def test_a_larger_difference_needs_another_dtype(base, tmp_path):
    values = trained(base)
    values[min(values)] += np.float32(7e4)
    save_backward(tmp_path / "b", values, base, {}, dtype="float32")
    assert max(value.max() for value in stored(tmp_path / "b").values()) == pytest.approx(7e4, rel=1e-3)
