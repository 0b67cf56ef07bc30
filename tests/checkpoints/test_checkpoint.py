"""Loading a checkpoint: values, dtypes, placement, imports."""

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
from svd_folders import COMPONENTS, converted

import svdjax
from convert.svd_to_flax import main
from svdjax.checkpoints import orbax_trees
from svdjax.models.svd import leaves

pytestmark = pytest.mark.usefixtures("quick_shapes")


@pytest.fixture(scope="module")
def loaded(model) -> svdjax.SVD:
    return svdjax.load(model)


def test_every_tensor_has_its_stored_value(model, loaded):
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
    assert half.backward is not None
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

    def place(name: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        asked.append((name, shape))
        return sharding

    loaded = svdjax.load(model, shardings=place)
    assert loaded.backward is not None
    parts = {name: leaves(getattr(loaded, name)) for name in COMPONENTS} | {"backward": loaded.backward}
    named = {f"{part}.{name}": value.shape for part, values in parts.items() for name, value in values.items()}
    assert sorted(asked) == sorted(named.items())
    assert {value.sharding for values in parts.values() for value in values.values()} == {sharding}


def test_importing_the_package_does_not_import_orbax_or_torch():
    code = "import svdjax, sys; print([m for m in ('orbax.checkpoint', 'imageio', 'torch', 'safetensors') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
    code = "import svdjax.checkpoints.checkpoint, sys; print('orbax.checkpoint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
