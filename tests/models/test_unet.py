"""UNet: parity with the official code's recorded outputs and maps, live parity with diffusers, both directions in lock-step."""

from __future__ import annotations

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, backward_tensors

from svdjax.config import UNetConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.models.backward import EVERYWHERE, NOWHERE, UP_BLOCKS, Backward
from svdjax.models.initialize import abstract
from svdjax.models.svd import backward_unet, leaves
from svdjax.models.temporal_attention import rotate_maps
from svdjax.models.unet import UNet

# Float32 against float32: the errors are 2e-6, and PyTorch's float32 differs from its float64 by 3.5e-6 (max abs).
# For comparison: own instead of rotated maps change the backward output by 0.28 to 0.47.
TOLERANCE = 2e-5


def unet_a(tensors: goldens.Tensors) -> UNet:
    return goldens.fill(abstract(UNet, from_pytorch("unet", goldens.config("unet")), jnp.float32), tensors)


@jax.jit
def run(unet: UNet, sample: Any, c_noise: Any, embeds: Any, ids: Any, maps: Any = None) -> Any:
    return unet(sample, c_noise, embeds, ids, attn_maps=maps, return_attn_maps=True)


@pytest.fixture(scope="module")
def forward(unet_data):
    """Our UNet's output and maps for the recorded inputs."""
    inputs = [unet_data[f"in/{name}"] for name in ("sample1", "ehs1", "added_time_ids", "timestep")]
    sample, embeds, ids, t = inputs
    return run(unet_a(goldens.weights("unet")), sample, jnp.full(2, t), embeds, ids)


def test_forward_golden(forward, unet_data):
    assert goldens.relative(forward[0], unet_data["fwd_out"]) < TOLERANCE


def test_every_temporal_map_golden(forward, unet_data):
    recorded = {k.removeprefix("map/"): unet_data[k] for k in unet_data.files if k.startswith("map/")}
    assert list(forward[1]) == list(recorded)  # the same layers, in the order they run
    for path, maps in recorded.items():
        assert goldens.relative(forward[1][path], maps) < TOLERANCE, path


@pytest.mark.parametrize("given", [True, False], ids=["rotated maps", "own maps"])
def test_backward_golden(forward, unet_data, given):
    maps = {path: rotate_maps(a) for path, a in forward[1].items()} if given else None
    sample, embeds, ids, t = (unet_data[f"in/{name}"] for name in ("sample2", "ehs2", "added_time_ids", "timestep"))
    out, used = run(unet_a(goldens.backward_weights()), sample, jnp.full(2, t), embeds, ids, maps)
    recorded = unet_data["bwd_out_given_rot_maps" if given else "bwd_out_own_maps"]
    assert goldens.relative(out, recorded) < TOLERANCE
    if maps is not None:
        np.testing.assert_array_equal(used[MID], maps[MID])


MID = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1"


def inputs(b: int, f: int, h: int, w: int, config: UNetConfig, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((b, f, h, w, config.in_channels))
    embeds = rng.standard_normal((b, 1, config.cross_attention_dim[0]))
    return sample, rng.uniform(-1, 1, b), embeds, np.tile([6.0, 127.0, 0.02], (b, 1))


@pytest.mark.parametrize(
    ("maps_from", "names"),
    [
        pytest.param(EVERYWHERE, ("to_v", "to_out"), id="ours"),
        pytest.param(UP_BLOCKS, (), id="without fine-tuning", marks=pytest.mark.heavy),
        pytest.param(NOWHERE, ("to_q", "to_k", "to_v", "to_out"), id="without rotated maps", marks=pytest.mark.heavy),
        pytest.param(NOWHERE, (), id="TRF"),
    ],
)
def test_lock_step_equals_two_explicit_passes(maps_from, names):
    """In float64, for the paper's method and three others."""
    with jax.enable_x64(True):
        unet = goldens.drawn(UNet, UNetConfig(**TINY), jnp.float64, seed=3)
        sample, c_noise, embeds, ids = inputs(4, 3, 4, 6, unet.config)
        tuned = backward_tensors(unet, names)
        backward = Backward(tuned, maps_from)
        both, maps = jax.jit(lambda u, bw, *a: u(*a, backward=bw, return_attn_maps=True))(
            unet, backward, sample, c_noise, embeds, ids
        )
        out_f, maps_f = run(unet, sample[:2], c_noise[:2], embeds[:2], ids[:2])
        rotated = {path: rotate_maps(a) for path, a in maps_f.items() if backward.takes_maps(path)}
        out_b, _ = run(backward_unet(unet, tuned), sample[2:], c_noise[2:], embeds[2:], ids[2:], rotated)
        # float64 rounding; outputs are of order 1
        np.testing.assert_allclose(both, np.concatenate([out_f, out_b]), rtol=0, atol=1e-12)
        for path, a in maps_f.items():
            np.testing.assert_allclose(maps[path], a, rtol=0, atol=2e-14)


def test_the_direction_of_a_half_matters():
    """Tuned tensors and rotated maps change the backward half only; otherwise the test above would prove little."""
    unet = goldens.drawn(UNet, UNetConfig(**TINY), jnp.float32, seed=3)
    args = [jnp.asarray(x, jnp.float32) for x in inputs(4, 3, 4, 6, unet.config)]
    run_both = jax.jit(lambda unet, backward, *args: unet(*args, backward=backward))
    outs = [
        run_both(unet, Backward(params, maps), *args)
        for params, maps in (({}, NOWHERE), ({}, EVERYWHERE), (backward_tensors(unet), EVERYWHERE))
    ]
    for a, b in ((0, 1), (1, 2)):
        np.testing.assert_allclose(outs[a][:2], outs[b][:2], atol=1e-5)
        assert goldens.relative(outs[a][2:], outs[b][2:]) > 1e-3


CONFIGURATIONS = {
    "two levels, two layers, 14 frames": (TINY | {"layers_per_block": 2}, (1, 14, 4, 4)),
    "three levels, two transformer layers": (
        TINY
        | {
            "block_out_channels": (32, 64, 96),
            "down_block_types": ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
            "num_attention_heads": (4, 4, 12),
            "transformer_layers_per_block": (1, 2, 1),
            "layers_per_block": (1, 2, 1),
        },
        (2, 3, 8, 12),
    ),
    "attention at the lowest level": (
        TINY
        | {
            "down_block_types": ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
            "up_block_types": ("CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "num_attention_heads": 8,
        },
        (1, 2, 4, 8),
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parity_with_diffusers(name):
    import torch

    settings, (b, f, h, w) = CONFIGURATIONS[name]
    config = settings | {"_class_name": "UNetSpatioTemporalConditionModel"}
    ours = from_pytorch("unet", config)
    tensors = goldens.torch_weights("unet", config, seed=len(name))
    theirs = goldens.torch_model("unet", config)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    sample, c_noise, embeds, ids = (x.astype(np.float32) for x in inputs(b, f, h, w, ours))
    with torch.no_grad():
        # diffusers takes one timestep for the batch
        want = theirs(
            torch.from_numpy(np.moveaxis(sample, -1, 2)), float(c_noise[0]), torch.from_numpy(embeds), torch.from_numpy(ids)
        )
    model = goldens.fill(abstract(UNet, ours, jnp.float32), tensors)
    got, maps = run(model, sample, np.repeat(c_noise[:1], b), embeds, ids)
    assert goldens.relative(got, goldens.channels_last(want.sample.numpy())) < TOLERANCE
    attended = [n.removesuffix(".to_q") for n, _ in theirs.named_modules() if n.endswith("attn1.to_q") and "temporal" in n]
    assert sorted(maps) == sorted(attended)


def test_16_bit_compute_stays_near_float32():
    """bfloat16 has 8 significant bits: an error of 4e-3 per rounding, a few hundredths after the whole UNet."""
    unet = goldens.drawn(UNet, UNetConfig(**TINY), jnp.float32, seed=3)
    half = goldens.drawn(UNet, UNetConfig(**TINY), jnp.bfloat16, jnp.float32, seed=3)
    args = [jnp.asarray(x, jnp.float32) for x in inputs(2, 3, 4, 6, unet.config)]
    out = run(half, *args)[0]
    assert out.dtype == jnp.bfloat16
    assert 1e-5 < goldens.relative(out, run(unet, *args)[0]) < 0.05


def test_full_size_parameter_count():
    """SVD-XT's UNet has 1,524,623,082 parameters, 24,780,800 of them temporal v and out."""
    unet = abstract(UNet, UNetConfig(), jnp.float32)
    sizes = {name: x.size for name, x in leaves(unet).items()}
    assert sum(sizes.values()) == 1_524_623_082
    tuned = [
        n for n in sizes if ".temporal_transformer_blocks." in n and n.endswith((".attn1.to_v.kernel", ".attn1.to_out.kernel"))
    ]
    assert len(tuned) == 32
    assert sum(sizes[n] for n in tuned) == 24_780_800


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": (1, 2, 4, 4, 4)}, "channels"),
        ({"sample": (1, 2, 3, 4, 8)}, "multiples of 2"),
        ({"embeds": (1, 2, 16)}, "one token"),
        ({"attn_maps": {"mid_block.attn1": jnp.zeros(1)}}, "mid_block.attn1"),
        ({"attn_maps": {MID: jnp.zeros((8, 4, 2, 2))}}, r"expected \(4, 4, 2, 2\)"),
        ({"backward": Backward()}, "two equal halves"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    unet = goldens.drawn(UNet, UNetConfig(**TINY), jnp.float32)
    sample = jnp.zeros(change.get("sample", (1, 2, 4, 4, 8)))
    embeds = jnp.zeros(change.get("embeds", (1, 1, 16)))
    kw = {k: v for k, v in change.items() if k in ("attn_maps", "backward")}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: unet(sample, jnp.zeros(1), embeds, jnp.zeros((1, 3)), **kw))
