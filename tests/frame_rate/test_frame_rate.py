"""More frames between those of a clip: windows, the sampler against its plain form, whole videos."""

from __future__ import annotations

import itertools

import goldens
import jax.numpy as jnp
import numpy as np
import plain_samplers as samplers
import pytest
import torch
from plain_model import HEIGHT, TIME_IDS, UNET, WIDTH, backward_of, tensors, unet
from plain_network import Network

import svdjax
from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.frame_rate import sampling
from svdjax.frame_rate.clips import raise_rate
from svdjax.frame_rate.windows import check_rate, frames_at_rate, windows_of
from svdjax.sampling import edm
from svdjax.sampling.draws import Draws, draw, joined
from svdjax.sampling.methods import run_of
from svdjax.sampling.prediction import Conditioning, Guide, fuse
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import Predicted, euler


@pytest.mark.parametrize("rate", [2, 4])
@pytest.mark.parametrize("frames", [5, 8, 14, 25])
def test_windows_cover_the_clip_and_end_at_original_frames(frames, rate):
    windows = windows_of(frames, rate)
    covered = np.zeros(frames_at_rate(frames, rate), int)
    for start, (first, last) in zip(windows.starts, windows.ends, strict=True):
        assert (start, start + windows.length - 1) == (first * rate, last * rate)
        covered[start : start + windows.length] += 1
    assert covered.min() >= 1
    assert windows.length == (frames - 1) // rate * rate + 1
    assert max(np.diff(windows.starts)) <= windows.length - 1  # neighbours share at least a frame


def test_rates_that_are_refused():
    for rate in (0, 3, 2.5, "2", None):
        with pytest.raises(InputError, match=r"--rate is .*, expected one of 1, 2, 4"):
            check_rate(rate, 25, "--rate")
    with pytest.raises(InputError, match="rate is 4, but a clip has 4 frames, expected at least 5"):
        check_rate(4, 4)
    assert check_rate(np.int64(1), 2) == 1


def test_interpolated_latents():
    """Equal frames, a quarter and half of the way on a circle, the original frames."""
    first, second = np.zeros((2, 1, 1, 2), np.float32)
    first[..., 0], second[..., 1] = 2, 2
    clip = jnp.asarray(np.stack([first, second, second]))[None]
    between = np.asarray(sampling.interpolate(clip, 4))[0, :, 0, 0]
    np.testing.assert_array_equal(between[::4], np.asarray(clip)[0, :, 0, 0])
    np.testing.assert_allclose(between[2], [2**0.5, 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(between[1], [2 * np.cos(np.pi / 8), 2 * np.sin(np.pi / 8)], rtol=1e-6)
    np.testing.assert_allclose(between[5:8], between[[4, 4, 4]], rtol=1e-6)


@pytest.mark.parametrize("passes", ["together", pytest.param("clips", marks=pytest.mark.heavy)])
def test_latents_against_the_plain_form(passes):
    rate, frames, scheduler = 2, 6, EDMConfig()
    settings = Settings(num_frames=frames, guidance=(1.0, 3.0), fusion="linear")
    windows = windows_of(frames, rate)
    assert windows.length - 1 > windows.starts[1]  # new frames lie in two windows
    latents, noise = (goldens.draw(name, (n, HEIGHT, WIDTH, 4)) for name, n in (("clip", frames), ("rate", 2 * frames - 1)))
    conditionings, denoisers = [], []
    for k in range(len(windows.starts)):
        embeds, noised = goldens.draw(f"embeds {k}", (2, 1, 16)), goldens.draw(f"noised {k}", (2, HEIGHT, WIDTH, 4))
        conditionings.append(
            Conditioning(jnp.asarray(embeds[:, None]), jnp.asarray(noised[:, None]), jnp.asarray(TIME_IDS[None]))
        )
        network = Network(
            UNET, *tensors(), lambda _: True, image_embeds=embeds, image_latents=noised, clean_latents=noised, time_ids=TIME_IDS
        )
        denoisers.append(
            lambda x, sigma, network=network: samplers.fused(
                network, x, sigma, directions="rotated", guidance=(1.0, 3.0), linear=True
            )
        )
    actual = sampling.refine(
        unet(),
        backward_of("dual"),
        jnp.asarray(latents[None]),
        Draws(jnp.zeros(()), jnp.zeros((1, frames, HEIGHT, WIDTH, 4)), jnp.zeros(()), jnp.asarray(noise[None])),
        conditionings,
        windows,
        settings,
        run=run_of("dual", settings, scheduler),
        scheduler=scheduler,
        passes=passes,
    )
    clip, rate_noise = (torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float64) for x in (latents, noise))
    spans = [(start, windows.length) for start in windows.starts]
    levels = samplers.karras_levels(25)[17:]
    expected = samplers.raised_rate(clip, rate_noise, rate, levels, spans, denoisers)
    assert goldens.relative(np.moveaxis(np.asarray(actual)[0], -1, 1), expected) < 1e-4
    np.testing.assert_allclose(actual[0, ::rate], latents, rtol=1e-6)


def test_a_step_to_the_mean_of_denoised_latents_is_that_of_the_mean_prediction():
    """For noise levels from the first to the last, in float32; the steps of windows lead to the level 0."""
    frames, rate = 5, 2
    windows = windows_of(frames, rate)
    x, clip = (jnp.asarray(goldens.draw(name, (1, n, 4, 4, 4)), jnp.float32) for name, n in (("x", 9), ("clip", frames)))
    guide = Guide(jnp.full(windows.length, 2.0), jnp.linspace(1, 0, windows.length))
    levels = sampling.levels(EDMConfig())
    for sigma, sigma_next in itertools.pairwise(levels):
        noisy, number = x * np.sqrt(sigma**2 + 1), jnp.float32(sigma)
        denoised, predictions = [jnp.zeros_like(x), jnp.zeros(9)], [jnp.zeros_like(x), jnp.zeros(9)]
        for k, start in enumerate(windows.starts):
            v = jnp.asarray(goldens.draw(f"v {k}", (2, 2, 1, windows.length, 4, 4, 4)), jnp.float32)
            numbers = {"sigma": number, "sigma_next": jnp.float32(0)}
            part = noisy[:, start : start + windows.length]
            step = euler(Predicted(latents=part, v=v, numbers=numbers, guide=guide, keyframes=None))
            denoised = sampling._add(*denoised, step, start)
            predictions = sampling._add(*predictions, fuse(v, guide), start)
        mean = edm.denoise(noisy, predictions[0] / predictions[1][:, None, None, None], number)
        expected = edm.euler_step(noisy, mean.at[:, ::rate].set(clip), number, jnp.float32(sigma_next))
        assert goldens.relative(sampling._step(noisy, *denoised, clip, sigma, sigma_next, rate), expected) < 1e-6


def test_every_pair_of_a_batch_has_its_own_noise(monkeypatch):
    """That of its own seed, or of its file, not that of the settings' seed."""
    rate, frames, settings, seen = 2, 5, Settings(num_frames=5, seed=7), []
    monkeypatch.setattr("svdjax.frame_rate.clips.condition_on", lambda *args: None)
    monkeypatch.setattr(sampling, "refine", lambda unet, backward, latents, draws, *_, **__: seen.append(draws.rate_noise(9)))
    model = svdjax.load("embedded")
    draws = [draw([seed], (16, 16, 3), (frames, 8, 8, 4)) for seed in (3, 4)]
    clip = np.zeros((2, frames, 16, 16, 3), np.uint8)
    for given, number in ((joined(draws), 2), (draws[0], 1), (draws[1], 1), (None, 1)):
        raise_rate(model, jnp.zeros((number, frames, 8, 8, 4)), clip[:number], settings, rate, draws=given)
    together, first, second, of_settings = seen
    np.testing.assert_array_equal(together, np.concatenate([first, second]))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(of_settings, draw([7], (16, 16, 3), (frames, 8, 8, 4)).rate_noise(9))


@pytest.mark.heavy
@pytest.mark.parametrize(("method", "loop"), [("dual", False), ("vibid", True), ("forward", False)])
def test_videos(model, method, loop):
    rng = np.random.default_rng(0)
    keyframes = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    reports = []
    options = {"num_frames": 5, "steps": 2, "seed": 3, "recurrence": 0, "method": method, "loop": loop}
    loaded = svdjax.load(model)
    frames = svdjax.interpolate(loaded, *keyframes, rate=2, progress=lambda *report: reports.append(report), **options)
    assert frames.shape == ((16 if loop else 9), 32, 32, 3)
    assert len({total for _, total in reports}) == 1
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1][0] == reports[-1][1]
    again = svdjax.interpolate(loaded, *keyframes, rate=2, **options)  # in one scan: only float32 rounding
    assert np.abs(frames.astype(int) - again).max() <= 1
