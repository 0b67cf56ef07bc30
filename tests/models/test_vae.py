"""VAE: parity with recorded outputs and with diffusers, and decoding in blocks against decoding at once."""

from __future__ import annotations

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import ENCODE_TOLERANCE, make_vae

from svdjax.config import VAEConfig
from svdjax.models.initialize import abstract
from svdjax.models.vae import VAE

# Float32 rounding through about thirty convolutions and norms is at most 2e-6; a structural error gives 1e-2 or more.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vae() -> VAE:
    return make_vae(goldens.config("vae"), goldens.weights("vae"))


# A small VAE with an upsampler, a change of width, and temporal resnets at two sizes.
SMALL = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}


@pytest.fixture(scope="module")
def small() -> VAE:
    return make_vae(SMALL, goldens.torch_weights("vae", SMALL))


def latents_a() -> np.ndarray:
    """Input of the recorded decode, (1, 5, 8, 6, 4)."""
    return goldens.channels_last(np.float32(3) * goldens.draw("in:vae_latents", (5, 4, 8, 6)))[None]


def signed(number: int) -> np.ndarray:
    return goldens.keyframe(number).astype(np.float32)[None] / 255 * 2 - 1


@pytest.mark.parametrize("number", [1, 2])
def test_encode_golden(vae, number):
    mean, logvar = goldens.call(vae, "encode", signed(number))
    recorded = goldens.keyframe_stages()
    assert goldens.relative(mean, goldens.channels_last(recorded[f"vae/frame{number}/mode"])) < ENCODE_TOLERANCE
    assert goldens.relative(logvar, goldens.channels_last(recorded[f"vae/frame{number}/logvar"])) < ENCODE_TOLERANCE


def test_decode_golden(vae):
    frames = goldens.call(vae, "decode", latents_a())
    assert goldens.relative(frames[0], goldens.channels_last(goldens.keyframe_stages()["vae/decoded"])) < TOLERANCE


def test_decode_chunked_golden(vae):
    # 5 frames in groups of 2: the last group is shorter. The recorded shape is (1, c, f, h, w).
    frames = goldens.call(vae, "decode_chunked", latents_a(), chunk=2)
    recorded = np.moveaxis(goldens.keyframe_stages()["vae/chunked"], 1, -1)
    assert goldens.relative(frames, recorded) < TOLERANCE
    whole = goldens.channels_last(goldens.keyframe_stages()["vae/decoded"])[None]
    assert goldens.relative(frames, whole) > 0.01  # the choice does change the picture


@pytest.mark.parametrize("chunk", [2, 9])
def test_decode_chunked_groups(small, chunk):
    """Each group of frames of each clip is decoded as a separate clip."""
    z = goldens.draw("clips", (2, 3, 4, 6, 4))
    groups = [goldens.call(small, "decode", z[:, i : i + chunk]) for i in range(0, 3, chunk)]
    frames = goldens.call(small, "decode_chunked", z, chunk=chunk)
    assert goldens.relative(frames, np.concatenate(groups, axis=1)) < TOLERANCE


# One to three levels, growing and shrinking widths. With one layer, the decoder's attention is unused; with three, the
# middle block's third resnet.
CONFIGS = [((32,), 1), ((64, 32), 2), ((32, 64, 96), 1), ((32, 64), 3)]


@pytest.mark.parametrize(("widths", "layers"), CONFIGS)
def test_against_diffusers(widths, layers):
    levels = {"block_out_channels": list(widths), "down_block_types": ["DownEncoderBlock2D"] * len(widths)}
    config = SMALL | levels | {"layers_per_block": layers}
    compare_with_diffusers(config, goldens.torch_weights("vae", config, seed=layers), TOLERANCE)


def test_epsilons_against_diffusers():
    """With activations of variance 1e-4, where the epsilons of the norms, 1e-6 and 1e-5, matter."""
    tensors = goldens.torch_weights("vae", SMALL)
    inner = [name for name in tensors if "conv" in name and not any(part in name for part in ("norm", "out", "quant"))]
    compare_with_diffusers(SMALL, tensors | {name: tensors[name] * np.float32(1e-2) for name in inner}, 1e-5)


def compare_with_diffusers(config: dict[str, Any], tensors: goldens.Tensors, tolerance: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = goldens.torch_model("vae", config)
    theirs.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    ours = make_vae(config, tensors)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    images = goldens.draw("images", (2, 6 * factor, 4 * factor, 3))
    z = goldens.draw("latents", (2, 3, 6, 4, 4))
    with torch.no_grad():
        posterior = theirs.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).latent_dist
        frames = theirs.decode(torch.from_numpy(z).flatten(0, 1).permute(0, 3, 1, 2), num_frames=3).sample
    mean, logvar = goldens.call(ours, "encode", images)
    assert goldens.relative(mean, goldens.channels_last(posterior.mean.numpy())) < tolerance
    assert goldens.relative(logvar, goldens.channels_last(posterior.logvar.numpy())) < tolerance
    decoded = goldens.call(ours, "decode", z)
    assert goldens.relative(decoded, goldens.channels_last(frames.numpy()).reshape(decoded.shape)) < tolerance


def test_log_variance_is_clamped():
    tensors = goldens.torch_weights("vae", SMALL)
    tensors["quant_conv.bias"] = np.asarray([0, 0, 0, 0, 1e3, -1e3, 0, 0], np.float32)
    _, logvar = goldens.call(make_vae(SMALL, tensors), "encode", goldens.draw("images", (1, 8, 12, 3)))
    assert (np.asarray(logvar[..., 0]) == 20).all()
    assert (np.asarray(logvar[..., 1]) == -30).all()


def loops(vae: VAE, z: np.ndarray, block_bytes: int) -> int:
    """Number of loops in a traced decode: 0 if everything fits into one block."""
    program = str(jax.make_jaxpr(lambda z: vae.decode(z, block_bytes))(z))
    return program.count(" while[") + program.count(" scan[")


def test_blocks_equal_the_whole_in_float64():
    """One or several frames and rows at a time, against the whole: equal up to float64 rounding."""
    config = SMALL | {"layers_per_block": 2}  # two layers: the attention is used
    with jax.enable_x64(True):
        vae = make_vae(config, goldens.torch_weights("vae", config), jnp.float64)
        z = goldens.draw("clip", (1, 4, 6, 4, 4)).astype(np.float64)
        assert loops(vae, z, 2**30) == 0
        whole = goldens.call(vae, "decode", z)
        assert whole.dtype == jnp.float64
        for block_bytes in (1, 2**17):
            assert loops(vae, z, block_bytes) > 10
            assert goldens.relative(goldens.call(vae, "decode", z, block_bytes=block_bytes), whole) < 1e-12


def test_batch_and_blocks_equal_single_clips(small):
    """Two clips together, at once and in blocks, against each alone: equal up to float32 rounding."""
    z = goldens.draw("clips", (2, 3, 4, 6, 4))
    alone = np.concatenate([goldens.call(small, "decode", clip[None]) for clip in z])
    for block_bytes in (2**30, 1):
        assert goldens.relative(goldens.call(small, "decode", z, block_bytes=block_bytes), alone) < TOLERANCE


def test_batch_and_blocks_equal_single_images(small):
    images = goldens.draw("images", (3, 8, 12, 3))
    alone = np.concatenate([goldens.call(small, "encode", image[None])[0] for image in images])
    for block_bytes in (2**30, 1):
        assert goldens.relative(goldens.call(small, "encode", images, block_bytes=block_bytes)[0], alone) < TOLERANCE


def test_compute_dtype(small):
    """Compute in bfloat16, result in float32; the error is that of an 8-bit mantissa through all layers."""
    half = make_vae(SMALL, goldens.torch_weights("vae", SMALL), jnp.bfloat16, jnp.float32)
    z = goldens.draw("clips", (1, 3, 4, 6, 4))
    frames = goldens.call(half, "decode", z)
    assert frames.dtype == jnp.float32
    assert 1e-4 < goldens.relative(frames, goldens.call(small, "decode", z)) < 0.05


def decode_scratch(config: VAEConfig, shape: tuple[int, ...], dtype: Any, block_bytes: int = 2**30) -> int:
    """Scratch memory of a compiled decode of latents of this shape, in bytes; nothing is allocated."""
    graph, state = nnx.split(abstract(VAE, config, dtype))
    decode = jax.jit(lambda state, z: nnx.merge(graph, state).decode(z, block_bytes))
    compiled = decode.lower(state, jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_decode_memory_is_bounded():
    """Scratch memory is the frame buffer, half as much for the next level, and blocks."""
    config = VAEConfig(block_out_channels=(32, 64), layers_per_block=1)
    frames, height, width = 24, 256, 256
    buffer = frames * height * width * 32 * 4
    blocked = decode_scratch(config, (1, frames, height // 2, width // 2, 4), jnp.float32, block_bytes=2**22)
    whole = decode_scratch(config, (1, frames, height // 2, width // 2, 4), jnp.float32)
    assert blocked < 1.9 * buffer
    assert whole > 4 * buffer


@pytest.mark.heavy
def test_full_size_decode_memory():
    """SVD-XT, 25 frames of 1024x576 in float32: 13.1 GB on a CPU, including 7.5 GB for the frame buffer."""
    assert decode_scratch(VAEConfig(), (1, 25, 72, 128, 4), jnp.float32) < 15e9
