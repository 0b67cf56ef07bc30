"""Loading: values, dtypes, placement, backward weights from a folder of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import svd_folders
from svd_folders import COMPONENTS, converted

import svdjax
from convert.svd_to_flax import main
from svdjax import checkpoint, orbax_trees
from svdjax.checkpoint import save_backward
from svdjax.errors import InputError
from svdjax.model import leaves


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(checkpoint, "abstract", svd_folders.cached_abstract)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return svd_folders.write(tmp_path_factory.mktemp("checkpoint") / "svd")


@pytest.fixture(scope="module")
def model(source) -> Path:
    """A float32 checkpoint with backward weights; not to be changed."""
    tuned = source.with_name("tuned")
    svd_folders.network("unet").save_pretrained(tuned)
    svd_folders.edit(tuned / "diffusion_pytorch_model.safetensors", svd_folders.move_values(1))
    out = source.with_name("out")
    assert main([str(source), str(out), "--backward", str(tuned)]) == 0
    return out


@pytest.fixture(scope="module")
def loaded(model) -> svdjax.SVD:
    return svdjax.load(model)


def test_every_leaf_is_what_was_stored(model, loaded):
    for component in COMPONENTS:
        expected = orbax_trees.restore_tree(model / component, orbax_trees.tree_shapes(model / component))
        actual = leaves(getattr(loaded, component))
        assert sorted(actual) == sorted(expected)
        for name, value in actual.items():
            assert isinstance(value, jax.Array)
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert loaded.config.unet.block_out_channels == (32, 64)
    assert loaded.backward is not None
    stored = converted(model, "backward")
    assert len(loaded.backward) == len(stored) == 3 * len(loaded.unet.temporal_attention_paths())


def test_a_loaded_network_runs(loaded):
    embeds = jax.jit(lambda network, pixels: network(pixels))(loaded.image_encoder, jnp.zeros((2, 224, 224, 3)))
    assert embeds.shape == (2, 48)
    assert jnp.isfinite(embeds).all()


def test_load_takes_a_string_and_gives_arrays_on_the_default_device(model):
    loaded = svdjax.load(str(model))
    assert loaded.unet.conv_in.kernel[...].devices() == {jax.devices()[0]}


@pytest.mark.parametrize("force_upcast", [True, False])
def test_dtype(model, loaded, tmp_path, force_upcast):
    if not force_upcast:
        model = Path(shutil.copytree(model, tmp_path / "model"))
        data = json.loads((model / "config.json").read_text())
        data["config"]["vae"]["force_upcast"] = False
        (model / "config.json").write_text(json.dumps(data))
    half = svdjax.load(model, dtype="bfloat16")
    assert half.unet.dtype == jnp.bfloat16
    for component in ("unet", "image_encoder"):
        exact = leaves(getattr(loaded, component))
        for name, value in leaves(getattr(half, component)).items():
            np.testing.assert_array_equal(value, exact[name].astype(jnp.bfloat16))
            assert value.dtype == jnp.bfloat16
    assert {value.dtype for value in half.backward.values()} == {jnp.dtype("bfloat16")}
    vae_dtype = jnp.float32 if force_upcast else jnp.bfloat16
    assert {value.dtype for value in leaves(half.vae).values()} == {jnp.dtype(vae_dtype)}
    assert half.vae.encoder.conv_in.dtype == vae_dtype


def test_stored_dtype_is_the_default(source, tmp_path):
    assert main([str(source), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half = svdjax.load(tmp_path / "half")
    assert half.unet.dtype == jnp.bfloat16
    assert half.unet.conv_in.kernel[...].dtype == jnp.bfloat16
    assert half.vae.encoder.conv_in.kernel[...].dtype == np.float32
    assert half.backward is None


def test_shardings_place_every_tensor(model):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    asked = []

    def place(name: str) -> jax.sharding.Sharding:
        asked.append(name)
        return sharding

    loaded = svdjax.load(model, shardings=place)
    parts = {name: leaves(getattr(loaded, name)) for name in COMPONENTS} | {"backward": loaded.backward}
    assert sorted(asked) == sorted(f"{part}.{name}" for part, values in parts.items() for name in values)
    assert {value.sharding for values in parts.values() for value in values.values()} == {sharding}


def overlay(loaded: svdjax.SVD, kinds=("to_v.kernel", "to_out.kernel", "to_out.bias")) -> dict[str, np.ndarray]:
    """Backward weights that no other test has."""
    rng = np.random.default_rng(5)
    return {
        f"{path}.{kind}": rng.standard_normal(leaves(loaded.unet)[f"{path}.{kind}"].shape, np.float32)
        for path in loaded.unet.temporal_attention_paths()
        for kind in kinds
    }


@pytest.mark.parametrize("queries", [False, True])
def test_backward_weights_alone(model, loaded, tmp_path, queries):
    kinds = ("to_v.kernel", "to_out.kernel", "to_out.bias") + ("to_q.kernel", "to_k.kernel") * queries
    given = overlay(loaded, kinds)
    folder = tmp_path / "backward"
    save_backward(folder, {name: jnp.asarray(value) for name, value in given.items()}, {"steps": 7})
    with_them = svdjax.load(model, backward=folder)
    assert sorted(with_them.backward) == sorted(given)
    for name, value in given.items():
        np.testing.assert_array_equal(with_them.backward[name], value)
    np.testing.assert_array_equal(with_them.unet.conv_in.kernel[...], loaded.unet.conv_in.kernel[...])
    info = json.loads((folder / "config.json").read_text())["backward"]
    assert info == {"steps": 7, "trained": list(kinds)}


def test_save_backward_replaces_only_its_own(model, loaded, tmp_path):
    folder = tmp_path / "backward"
    save_backward(folder, overlay(loaded), {"step": 1})
    with pytest.raises(InputError, match="exists already"):
        save_backward(folder, overlay(loaded), {"step": 2})
    save_backward(folder, overlay(loaded), {"step": 2}, overwrite=True)
    assert json.loads((folder / "config.json").read_text())["backward"]["step"] == 2
    before = (model / "config.json").read_bytes()
    with pytest.raises(InputError, match="was not written by this command"):
        save_backward(model, overlay(loaded), {}, overwrite=True)
    assert (model / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["backward"]


def first_of(given: dict[str, np.ndarray]) -> str:
    return next(iter(given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop(first_of(o)), "/backward: lacks down_blocks.0."),
        (
            lambda o: o.update({"conv_in.bias": np.zeros(32, np.float32)}),
            "/backward: has unexpected conv_in.bias: not backward",
        ),
        (
            lambda o: o.update({first_of(o): np.zeros((3, 4), np.float32)}),
            r"/backward: down_blocks.*has shape \(3, 4\), this mo",
        ),
        (
            lambda o: o.update({first_of(o).replace("to_v", "to_q"): np.zeros((32, 32), np.float32)}),
            "/backward: lacks down_blocks.*to_k.kernel and 6 more",
        ),
    ],
)
def test_backward_weights_of_another_unet(model, loaded, tmp_path, change, message):
    given = overlay(loaded)
    change(given)
    save_backward(tmp_path / "backward", given, {})
    with pytest.raises(InputError, match=f"{tmp_path}/backward{message}"):
        svdjax.load(model, backward=tmp_path / "backward")


def test_backward_folder_of_another_kind(model, tmp_path):
    with pytest.raises(InputError, match="format is 'svdjax-model', expected 'svdjax-backward'"):
        svdjax.load(model, backward=model)
    with pytest.raises(InputError, match=f"{tmp_path}/no: no such folder, expected a folder that train.backward writes"):
        svdjax.load(model, backward=tmp_path / "no")


def test_importing_the_package_leaves_orbax_and_torch_alone():
    code = "import svdjax, sys; print([m for m in ('orbax.checkpoint', 'imageio', 'torch', 'safetensors') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
    code = "import svdjax.checkpoint, sys; print('orbax.checkpoint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
