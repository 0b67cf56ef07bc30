"""Layers and a small UNet on frames that are divided over four simulated devices, against whole frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import functools, json
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import PartitionSpec as P
    from sample.benchmarking.workloads import RandomWeights, make, on_mesh
    from sample.planning.collectives import traffic
    from svdjax.config import CLIPConfig, SVDConfig, UNetConfig, VAEConfig
    from svdjax.models.convolution import Conv
    from svdjax.models.initialize import Keys
    from svdjax.models.layers import GroupNorm
    from svdjax.models.resnet import Downsample, Upsample
    from svdjax.models.svd import fill, leaves
    from svdjax.models.vae_encoder import AttentionBlock
    from svdjax.parallel.divided import run_divided, shares
    from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh

    kw = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": Keys(0)}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 8, 16, 64)), jnp.float32) + 3
    layers = {
        "conv": Conv(64, 8, **kw),
        "down": Downsample(64, **kw),
        "encoder's down": Downsample(64, pads=((0, 1), (0, 1)), **kw),
        "up": Upsample(64, **kw),
        "norm of frames": GroupNorm(64, 1e-5, **kw),
        "norm of the clip": functools.partial(GroupNorm(64, 1e-5, **kw), axes=(-4, -3, -2)),
        "attention": AttentionBlock(64, **kw),
    }
    out = {}
    expected = {name: np.asarray(jax.jit(layer)(x)) for name, layer in layers.items()}
    few = ("conv", "down", "norm of frames", "norm of the clip", "attention")
    for spec, names in (("rows=2,columns=2", layers), ("columns=2,guidance=2", ("conv", "attention")), ("rows=4", few)):
        mesh = make_mesh(spec, None, SAMPLING_AXES)
        share = shares(mesh, 2, 1, (8, 16), 2)  # without conditions, `guidance` divides pixels
        images = share.clips(image=True)
        for name in names:
            run = jax.jit(lambda x: run_divided(layers[name], mesh, share.pixels, (x,), (images,), images))
            compiled = run.lower(x).compile()
            found, whole = np.asarray(compiled(x)), expected[name]
            assert found.shape == whole.shape
            error = float(np.linalg.norm(found - whole) / np.linalg.norm(whole))
            sent = [[t.kind, t.axes, t.count, t.bytes] for t in traffic(compiled, mesh)]
            out[f"{name}, {spec}"] = {"error": error, "sent": sent}

    unet = UNetConfig(
        block_out_channels=(64,),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",),
        up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        layers_per_block=(1,),
        transformer_layers_per_block=(1,),
        num_attention_heads=(2,),
        cross_attention_dim=(16,),
        num_frames=2,
    )
    vae = VAEConfig(block_out_channels=(32, 32), layers_per_block=1)
    clip = SVDConfig(unet=unet, vae=vae, image_encoder=CLIPConfig(projection_dim=16)), (16, 16), 2, "float32"
    shapes = make(*clip, allocate=True)
    _, whole = jax.jit(on_mesh(None)[0])(*shapes.dual_step)
    mesh = make_mesh("guidance=2,columns=2", None, SAMPLING_AXES)
    args = make(*clip, allocate=True, mesh=mesh).dual_step
    compiled = jax.jit(on_mesh(mesh)[0]).lower(*args).compile()
    _, v = compiled(*args)
    error = float(jnp.linalg.norm(v - np.asarray(whole)) / jnp.linalg.norm(v))
    out["UNet"] = {"error": error, "sent": [[t.kind, t.axes, t.count, t.bytes] for t in traffic(compiled, mesh)]}
    print(json.dumps(out))
    """
)


@pytest.fixture(scope="module")
def results() -> dict:
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "NPROC": "8"}
    process = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_layers_of_divided_frames_equal_those_of_whole_frames(results):
    errors = {name: found["error"] for name, found in results.items()}
    assert len(errors) == 7 + 2 + 5 + 1
    assert max(errors.values()) < 2e-6, errors  # rounding in another order


def test_a_convolution_sends_its_border(results):
    """One row or column of the input to each neighbour that reads it, after the rows also the corners."""
    pixel = 2 * 3 * 64 * 4  # bytes of a pixel of all frames
    assert results["conv, rows=4"]["sent"] == [["collective-permute", "rows", 2, 2 * 16 * pixel]]
    assert results["down, rows=4"]["sent"] == [["collective-permute", "rows", 1, 16 * pixel]]
    assert results["conv, rows=2,columns=2"]["sent"] == [
        ["collective-permute", "rows", 2, 2 * 8 * pixel],
        ["collective-permute", "columns", 2, 2 * 6 * pixel],
    ]


def test_norms_send_statistics_and_attention_keys_and_values(results):
    """A norm's mean and variance of each group; for attention also the statistics of the block's norm."""
    of_frames = 3 * 2 * 2 * 3 * 32 * 4
    assert results["norm of frames, rows=4"]["sent"] == [["all-gather", "rows", 1, of_frames]]
    assert results["norm of the clip, rows=4"]["sent"] == [["all-gather", "rows", 1, of_frames / 3]]
    keys_and_values = 2 * 3 * (2 * 3 * 2 * 16 * 64 * 4)
    assert results["attention, rows=4"]["sent"] == [["all-gather", "rows", 3, keys_and_values + of_frames]]


def test_devices_of_guidance_exchange_only_predictions(results):
    """Nothing but all-gathers and borders crosses at all: no activation is sent elsewhere."""
    sent = results["UNet"]["sent"]
    assert {(kind, axes) for kind, axes, *_ in sent} == {
        ("all-gather", "guidance"),
        ("all-gather", "columns"),
        ("collective-permute", "columns"),
    }
    (predictions,) = ([count, size] for _, axes, count, size in sent if axes == "guidance")
    assert predictions == [1, 2 * 2 * 8 * 4 * 4 * 4]  # directions, frames, rows, half of the columns, channels, float32
