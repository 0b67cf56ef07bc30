"""Resize and keyframe conditioning against recorded outputs and the functions of diffusers' pipeline."""

from __future__ import annotations

import dataclasses
import zlib

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import ENCODE_TOLERANCE, make_clip, make_vae
from PIL import Image

from svdjax.config import CLIPConfig
from svdjax.sampling.conditioning import (
    added_time_ids,
    clip_pixels,
    encode_keyframes,
    resize_matrix,
    resize_with_antialiasing,
    to_signed_unit,
)

# PyTorch computes the positions of its bicubic taps in float32. At position 1000 the rounding error is 6e-5 of a pixel, and the
# error of the result is that times the slope. Our matrices are float64. Measured: 1.7e-5 on 1024 pixels of noise, which has the
# steepest slopes, and below 2e-6 on small sizes and on the keyframes.
RESIZE_TOLERANCE = 3e-5


def keyframes() -> np.ndarray:
    """The recorded keyframes as one pair, (d, b, H, W, 3) uint8."""
    return np.stack([goldens.keyframe(1), goldens.keyframe(2)])[:, None]


def augmentation() -> np.ndarray:
    """The augmentation noise of the recorded runs, (b, H, W, 3)."""
    return goldens.channels_last(goldens.draw("in:noise_aug", (1, 3, 128, 192)))


def test_resize_golden():
    rng = np.random.default_rng([goldens.SEED, zlib.crc32(b"resize")])
    image = rng.uniform(-1, 1, (1, 1, 576, 1024)).astype(np.float32)
    out = jax.jit(lambda x: resize_with_antialiasing(x, (224, 224)))(goldens.channels_last(image))
    assert goldens.relative(out, goldens.channels_last(goldens.keyframe_stages()["resize/out"])) < RESIZE_TOLERANCE


# Downsampling and upsampling; kernel widths of 3, odd and even; one unchanged axis; a single output row.
SIZES = [((64, 96), (32, 32)), ((75, 130), (16, 14)), ((20, 31), (48, 64)), ((33, 50), (33, 9)), ((40, 40), (1, 20))]


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_resize_against_diffusers(size, new_size):
    torch = pytest.importorskip("torch")
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    image = goldens.draw("image", (2, *size, 3))
    expected = _resize_with_antialiasing(torch.from_numpy(image).permute(0, 3, 1, 2), new_size)
    assert (
        goldens.relative(resize_with_antialiasing(image, new_size), goldens.channels_last(expected.numpy())) < RESIZE_TOLERANCE
    )


def test_resize_keeps_float64_and_constants():
    with jax.enable_x64(True):
        out = resize_with_antialiasing(jnp.full((1, 50, 70, 1), 0.3), (24, 24))
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, 0.3, rtol=1e-14)  # the weights of each output sum to 1
    np.testing.assert_array_equal(resize_matrix(24, 24), np.eye(24))


@pytest.mark.parametrize("number", [1, 2])
def test_vae_pixels_are_exact(number):
    """Bit for bit the same as diffusers' preprocessing of an image that needs no resize."""
    pytest.importorskip("torch")
    from diffusers.video_processor import VideoProcessor

    image = goldens.keyframe(number)
    expected = VideoProcessor(do_resize=True, vae_scale_factor=8).preprocess(Image.fromarray(image), height=128, width=192)
    pixels = np.asarray(to_signed_unit(image))
    np.testing.assert_array_equal(pixels, goldens.channels_last(expected[0].numpy()))
    if number == 1:
        recorded = goldens.channels_last(goldens.keyframe_stages()["vae/pixels_every_4th"][0])
        np.testing.assert_array_equal(pixels[::4, ::4], recorded)


def test_every_level_is_exact():
    levels = np.arange(256, dtype=np.uint8)
    expected = (levels.astype(np.float32) / 255.0) * 2.0 - 1.0
    np.testing.assert_array_equal(to_signed_unit(levels), expected)
    np.testing.assert_array_equal(jax.jit(to_signed_unit)(levels), expected)


def test_clip_pixels_golden():
    pixels = clip_pixels(to_signed_unit(goldens.keyframe(1)[None]), CLIPConfig())
    recorded = goldens.channels_last(goldens.keyframe_stages()["clip/pixel_values_every_4th"])
    assert goldens.relative(pixels[:, ::4, ::4], recorded) < RESIZE_TOLERANCE


def test_clip_pixels_use_config():
    image = to_signed_unit(goldens.keyframe(1)[None])
    usual = CLIPConfig(image_size=28)
    other = dataclasses.replace(usual, image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 4.0))
    pixels = clip_pixels(image, usual)
    plain = pixels * np.asarray(usual.image_std) + np.asarray(usual.image_mean)
    assert pixels.shape == (1, 28, 28, 3)
    expected = (plain - np.asarray([0.1, 0.2, 0.3])) / np.asarray([1.0, 2.0, 4.0])
    np.testing.assert_allclose(clip_pixels(image, other), expected, atol=1e-6)


@pytest.fixture(scope="module")
def models():
    return (
        make_clip(goldens.config("image_encoder"), goldens.weights("image_encoder")),
        make_vae(goldens.config("vae"), goldens.weights("vae")),
    )


def encode(models, keyframes: np.ndarray, augmentation: np.ndarray, strength: float):
    graph, state = nnx.split(models)
    run = jax.jit(lambda state, *args: encode_keyframes(*nnx.merge(graph, state), *args))
    return run(state, keyframes, augmentation, strength)


def test_encode_keyframes_golden(models):
    """CLIP encodes the clean keyframes, the VAE the noised ones: the same noise for both, no scaling factor."""
    image_embeds, image_latents = encode(models, keyframes(), augmentation(), 0.02)
    assert image_embeds.shape == (2, 1, 1, 32)
    assert image_latents.shape == (2, 1, 16, 24, 4)
    recorded = goldens.keyframe_stages()
    for d, number in enumerate((1, 2)):
        assert goldens.relative(image_embeds[d], recorded[f"clip/frame{number}/image_embeds"]) < 1e-5  # as in test_clip
        latents = goldens.channels_last(recorded[f"conditioning/image{number}_latents"])
        assert goldens.relative(image_latents[d], latents) < ENCODE_TOLERANCE
        without_noise = goldens.channels_last(recorded[f"vae/frame{number}/mode"])
        assert goldens.relative(image_latents[d], without_noise) > 0.01


def test_encode_one_keyframe_equals_the_pair(models):
    """Leading axes are arbitrary: encoding a pair equals encoding each keyframe."""
    together = encode(models, keyframes(), augmentation(), 0.02)
    alone = encode(models, keyframes()[1], augmentation(), 0.02)
    for pair, one in zip(together, alone, strict=True):
        assert goldens.relative(pair[1], one) < 1e-5  # the same arithmetic with another batch size


def test_added_time_ids():
    ids = added_time_ids(fps=7, motion_bucket_id=127, noise_aug_strength=0.02)
    assert ids.dtype == jnp.float32
    np.testing.assert_array_equal(ids, np.float32([6, 127, 0.02]))
