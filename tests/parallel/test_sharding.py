"""The sharding table: every tensor has one rule, devices store equal shares; gathering on eight simulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import svd_folders
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from svdjax.config import SVDConfig
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.svd import NETWORKS, leaves
from svdjax.parallel.mesh import AXES
from svdjax.parallel.sharding import batch_sharding, device_bytes, like_tree, replicated, rules_of, sharding_of


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope="module")
def full() -> dict[str, jax.ShapeDtypeStruct]:
    """Every tensor of SVD-XT, bfloat16, nothing allocated."""
    config = SVDConfig()
    networks = {n: svd_folders.cached_abstract(cls, getattr(config, n), jnp.bfloat16) for n, cls in NETWORKS.items()}
    return {f"{part}.{name}": leaf for part, network in networks.items() for name, leaf in leaves(network).items()}


def test_every_tensor_matches_exactly_one_rule(full):
    names = [*full, *(n.replace("unet.", "backward.") for n in names_of_kinds(full, VALUES))]
    assert {name: len(rules_of(name)) for name in names if len(rules_of(name)) != 1} == {}
    assert len(names) == len(full) + 48


def test_an_unknown_tensor_is_an_error():
    with pytest.raises(ValueError, match=r"unet.something.new, shape \(4, 4\): matches 0 rules"):
        sharding_of("unet.something.new", (4, 4), mesh(fsdp=8))


def test_bytes_of_a_device(full):
    whole = device_bytes(full, mesh())
    assert whole == 2 * (1_524_623_082 + 97_742_847 + 632_076_800)
    for fsdp in (2, 4, 8):
        # Replicated on each device: the layers outside the blocks, 0.2 %, and vectors, 0.1 %.
        excess = device_bytes(full, mesh(fsdp=fsdp)) / (whole / fsdp) - 1
        assert 0 < excess < 0.0035 * (fsdp - 1), (fsdp, excess)
    assert device_bytes(full, mesh(data=8)) == whole


def test_tensor_divides_the_unet(full):
    unet = {name: leaf for name, leaf in full.items() if name.startswith("unet.")}
    # With two devices, the five heads of level 0 are not divided, nor are the convolutions between levels and embeddings.
    assert 0.5 < device_bytes(unet, mesh(tensor=2)) / device_bytes(unet, mesh()) < 0.6
    both = mesh(fsdp=4, tensor=2)
    assert device_bytes(unet, both) / device_bytes(unet, mesh()) < 0.15


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "spec"),
    [
        ("downsamplers.0.conv.kernel", (3, 3, 320, 320), {"fsdp": 8}, P(None, None, None, "fsdp")),
        ("spatial_res_block.conv_shortcut.kernel", (1, 1, 960, 320), {"fsdp": 8}, P(None, None, "fsdp", None)),
        ("unet.conv_in.kernel", (3, 3, 8, 320), {"fsdp": 8}, P()),  # outside the blocks
        ("unet.conv_norm_out.scale", (2048,), {"fsdp": 8, "tensor": 2}, P()),
        ("conv_shortcut.kernel", (1, 1, 16, 32), {"fsdp": 2}, P(None, None, None, None)),  # small
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.kernel", (1280, 1280), {"tensor": 2}, P(None, "tensor")),
        ("attn1.to_v.kernel", (320, 320), {"tensor": 2}, P(None, None)),  # five heads
        ("attn1.to_v.kernel", (320, 320), {"tensor": 5}, P(None, "tensor")),
        ("attn1.to_out.kernel", (1280, 1280), {"fsdp": 4, "tensor": 2}, P("tensor", "fsdp")),
        ("ff.proj_in.kernel", (320, 2560), {"fsdp": 4}, P(None, "fsdp")),
        ("ff_in.proj_out.kernel", (1280, 320), {"fsdp": 4, "tensor": 2}, P("tensor", "fsdp")),
        ("attentions.0.proj_out.kernel", (320, 320), {"fsdp": 4, "tensor": 2}, P(None, "fsdp")),
        (
            "resnets.0.spatial_res_block.conv1.kernel",
            (3, 3, 320, 640),
            {"fsdp": 4, "tensor": 2},
            P(None, None, "fsdp", "tensor"),
        ),
        ("resnets.0.temporal_res_block.conv2.kernel", (3, 640, 640), {"tensor": 2}, P(None, "tensor", None)),
        ("resnets.0.spatial_res_block.conv2.kernel", (3, 3, 320, 640), {"tensor": 3}, P(None, None, None, None)),
        ("downsamplers.0.conv.kernel", (3, 3, 321, 7), {"fsdp": 2}, P(None, None, None, None)),  # nothing to divide
    ],
)
def test_specs(name, shape, sizes, spec):
    assert sharding_of(name, shape, mesh(**sizes)).spec == spec


def test_batches_and_copies():
    assert batch_sharding(mesh(2, 4)).spec == P(("data", "fsdp"))
    assert batch_sharding(mesh(2, 4, 2)).shard_shape((16, 3)) == (2, 3)
    assert replicated(mesh(2, 4)).spec == P()


def test_optimizer_state_lies_like_its_parameters():
    names = [f"mid_block.attentions.0.temporal_transformer_blocks.0.attn1.{kind}" for kind in ("to_v.kernel", "to_out.kernel")]
    trained = {name: jax.ShapeDtypeStruct((64, 64), np.float32) for name in names}
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4)).init, trained)
    placed = like_tree({"trained": trained, "optimizer": state}, mesh(fsdp=4))
    specs = [s.spec for s in jax.tree.leaves(placed)]
    assert specs.count(P(None, "fsdp")) == 6  # both tensors, themselves and their two moments
    assert specs.count(P()) == len(specs) - 6 == 1  # the count of steps


PROGRAM = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import jax, jax.numpy as jnp, numpy as np
    from flax import nnx
    from jax.sharding import NamedSharding, PartitionSpec as P
    from sample.planning.collectives import traffic
    from svdjax.models.initialize import Keys
    from svdjax.models.layers import FeedForward
    from svdjax.parallel.mesh import make_mesh
    from svdjax.models.svd import leaves, fill
    from svdjax.checkpoints.orbax_trees import restore_tree, tree_shapes
    from svdjax.memory.rematerialise import run_plainly, run_rematerialised
    from svdjax.parallel.sharding import batch_sharding, like_tree, run_gathered, shardings

    assert jax.device_count() == 8
    out = {}
    kw = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": Keys(0)}

    class Block(nnx.Module):
        def __init__(self):
            self.ff_in = FeedForward(64, **kw)
            self.ff = FeedForward(64, **kw)

        def __call__(self, x):
            return self.ff(jnp.tanh(self.ff_in(x)))

    block = Block()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2, 4, 64)), jnp.float32)

    def loss(block, x, run):
        return jnp.square(jax.vmap(lambda clip: run(block, clip[None])[0])(x)).mean()

    expected, expected_grads = jax.jit(jax.value_and_grad(lambda b, x: loss(b, x, run_plainly)))(block, x)
    expected_grads = leaves(expected_grads)
    for spec in ("fsdp=8", "data=2,fsdp=4", "fsdp=2,data=2,tensor=2"):
        mesh = make_mesh(spec)
        placed = fill(block, {n: jax.device_put(v, shardings(mesh)(n, v.shape)) for n, v in leaves(block).items()})
        run = run_gathered(mesh, run_rematerialised)
        where = NamedSharding(mesh, P()), like_tree(block, mesh)
        step = jax.jit(jax.value_and_grad(lambda b, x: loss(b, x, run)), out_shardings=where)
        compiled = step.lower(placed, jax.device_put(x, batch_sharding(mesh))).compile()
        value, grads = compiled(placed, jax.device_put(x, batch_sharding(mesh)))
        grads = leaves(grads)
        error = max(float(jnp.linalg.norm(grads[n] - g) / jnp.linalg.norm(g)) for n, g in expected_grads.items())
        out[spec] = {
            "loss": abs(float(value / expected - 1)),
            "gradients": error,
            "whole": [n for n, g in grads.items() if n.endswith("kernel") and g.addressable_shards[0].data.shape == g.shape],
            "traffic": [[t.kind, t.axes, t.count, t.bytes] for t in traffic(compiled, mesh)],
        }

    mesh = make_mesh("data=2,fsdp=4")
    tree = Path(sys.argv[1])
    read = restore_tree(tree, tree_shapes(tree), shardings(mesh))
    out["read"] = {n: [list(v.addressable_shards[0].data.shape), np.asarray(v).sum().item()] for n, v in read.items()}
    print(json.dumps(out))
    """
)


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory) -> dict:
    from svdjax.checkpoints.orbax_trees import save_tree

    tree = tmp_path_factory.mktemp("sharding") / "tree"
    values = {
        "unet.down_blocks.0.downsamplers.0.conv.kernel": np.ones((3, 3, 8, 32), np.float32),
        "unet.conv_in.bias": np.ones(32, np.float32),
    }
    save_tree(tree, values)
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tree)], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("spec", ["fsdp=8", "data=2,fsdp=4", "fsdp=2,data=2,tensor=2"])
def test_gathering(on_eight_devices, spec):
    found = on_eight_devices[spec]
    # float32 sums of a few thousand terms in another order
    assert found["loss"] < 1e-6
    assert found["gradients"] < 1e-5
    assert found["whole"] == []  # every gradient of a kernel is divided
    # Traffic: kernels gathered for each pass and the sums of their gradients; activations only over the axis tensor.
    kernels = 2 * 12 * 64 * 64 * 4 // (2 if "tensor" in spec else 1)
    n = int(spec.split("fsdp=")[1][0])
    gathers = sum(sent for kind, axes, _, sent in found["traffic"] if kind == "all-gather" and "tensor" not in axes)
    assert gathers == 2 * kernels * (n - 1) / n
    sums = sum(sent for kind, axes, _, sent in found["traffic"] if kind == "all-reduce" and "tensor" not in axes)
    assert sums < 2.02 * kernels  # vectors too
    assert {kind for kind, axes, *_ in found["traffic"] if "tensor" not in axes} <= {
        "all-gather",
        "all-reduce",
        "reduce-scatter",
    }


def test_reading_divided(on_eight_devices):
    assert on_eight_devices["read"] == {
        "unet.down_blocks.0.downsamplers.0.conv.kernel": [[3, 3, 8, 8], 3 * 3 * 8 * 32],
        "unet.conv_in.bias": [[32], 32],
    }
