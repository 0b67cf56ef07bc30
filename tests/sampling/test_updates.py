"""Updates around a stand-in for the UNet: identities of the methods, calls in turn, segments, reused deep features."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import goldens
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from networks import plain_unet

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.models.backward import Backward
from svdjax.sampling import edm
from svdjax.sampling.draws import Draws
from svdjax.sampling.methods import Method, parse_name, run_of, settings_of
from svdjax.sampling.prediction import Conditioning, Guide, clips_of, predict_clips, reverse_time
from svdjax.sampling.sampler import sample
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import Predicted, Update, bridge, euler

FRAMES, LATENT = 5, (5, 2, 3, 4)
EDM = EDMConfig()


@functools.cache
def conditioning(directions: int = 2) -> Conditioning:
    rng = np.random.default_rng(1)
    embeds, image, clean = (rng.standard_normal(shape) for shape in ((2, 2, 1, 6), (2, 2, 2, 3, 4), (2, 2, 2, 3, 4)))
    parts = (jnp.asarray(x[:directions], jnp.float32) for x in (embeds, image, clean))
    embeds, image, clean = parts
    return Conditioning(embeds, image, jnp.full((2, 3), 6.0), clean)


def draws(recurrences: int) -> Draws:
    rng = np.random.default_rng(2)
    initial, noise = rng.standard_normal((2, *LATENT)), rng.standard_normal((recurrences, 2, *LATENT))
    return Draws(jnp.zeros((2, 16, 24, 3)), jnp.asarray(initial, jnp.float32), jnp.asarray(noise, jnp.float32))


def run(name: str | Method, passes: str | None = None, segments: int = 1, **given: Any) -> np.ndarray:
    """The latents after every update."""
    method, fields = parse_name(name) if isinstance(name, str) else (name, {})
    settings = settings_of(method, {"num_frames": FRAMES, "steps": 4, **fields, **given}, {})
    plan = run_of(method, settings, EDM)
    both = method.directions == 2 and not all(kind.single for kind in plan.kinds)
    latents, trajectory = sample(
        plain_unet(),
        conditioning(method.directions),
        settings,
        draws(plan.recurrences),
        scheduler=EDM,
        backward=Backward() if both else None,
        method=method,
        passes=passes,
        segments=segments,
        trajectory=True,
    )
    assert len(trajectory) == len(plan)
    np.testing.assert_array_equal(latents, trajectory[-1])
    return np.asarray(trajectory)


RUNS = {
    "vibid guided": {"guidance": (1, 3), "guidance_steps": (1, 3), "recurrence": 1},
    "mpd+vibid": {},
    "mpd+dual": {"guidance": (1, 3), "fusion": "linear", "recurrence": 1},
    "trf-shipped": {"steps": 11},
    "forward ays": {"schedule": "ays", "guidance_steps": (0, 2)},
    "mpd+trf deep": {"deep_every": 2, "guidance": (1, 3), "guidance_steps": (1, 4)},
    "vibid deep": {"deep_every": 3},
}


@pytest.mark.parametrize("name", RUNS)
def test_updates_in_turn_and_in_segments_equal_one_scan(name):
    method, given = name.split()[0], RUNS[name]
    expected = run(method, **given)
    for other in ({"passes": "guidance"}, {"segments": 4})[: 2 if "+" in method else 1]:
        found = run(method, **other, **given)
        assert goldens.relative(found, expected) < 1e-5, other


def test_vibid_ends_with_the_first_keyframe_and_mpd_with_a_shift():
    keyframes = np.asarray(conditioning().keyframe_latents)
    np.testing.assert_array_equal(run("vibid")[-1][:, 0], keyframes[0])
    # forward half of the last step
    np.testing.assert_array_equal(run("vibid")[-2][:, -1], keyframes[1])
    # a single step from the first level to 0: the new latents are the reconstruction
    shifted, replaced = run("mpd+vibid", steps=1, prefix_repeats=1)[:1], run("vibid", steps=1)[:1]
    difference = shifted[0] - replaced[0]
    np.testing.assert_array_equal(shifted[0][:, 0], keyframes[0])
    np.testing.assert_allclose(shifted[0][:, -1], keyframes[1], atol=1e-6)
    assert np.ptp(difference[:, 1:-1], axis=1).max() < 1e-5
    assert np.abs(difference[:, 1:-1]).min(axis=1).max() > 0.1


def test_lcm_at_one_step_is_the_prediction():
    settings = Settings(num_frames=FRAMES, steps=1, schedule="lcm", guidance=(1, 1))
    latents = draws(0).initial * np.sqrt(700.0**2 + 1)
    clips = clips_of(latents, jnp.float32(700), conditioning(), guided=False)
    v = predict_clips(plain_unet(), Backward(), clips)[:, 0]
    v = 0.5 * (v[0] + reverse_time(v[1]))
    expected = edm.denoise(latents, v, jnp.float32(700))
    found = run("dual", steps=1, schedule="lcm")[-1]
    assert settings.schedule == "lcm"
    assert goldens.relative(found, expected) < 1e-4


def test_linear_fusion_of_steps_is_the_step_of_the_fused_prediction():
    rng = np.random.default_rng(3)
    latents, v = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, *LATENT), (2, 1, 2, *LATENT)))
    weight = jnp.linspace(1.0, 0.0, FRAMES)
    numbers = {"sigma": jnp.float32(3.0), "sigma_next": jnp.float32(1.5)}

    def stepped(v: Array, latents: Array) -> Array:
        guide = Guide(None, weight)
        return euler(Predicted(latents=latents, v=v, numbers=numbers, guide=guide, keyframes=None))

    forward = stepped(v[:1], latents)
    backward = reverse_time(stepped(v[1:], reverse_time(latents)))
    w = weight[:, None, None, None]
    assert goldens.relative(stepped(v, latents), w * forward + (1 - w) * backward) < 1e-5


def test_the_unconditional_prediction_gives_the_noise():
    rng = np.random.default_rng(4)
    latents, conditional, free = (jnp.asarray(rng.standard_normal((2, *LATENT)), jnp.float32) for _ in range(3))
    keyframes = jnp.asarray(rng.standard_normal((2, 2, *LATENT[1:])), jnp.float32)
    numbers = {"sigma": jnp.float32(3.0), "sigma_next": jnp.float32(1.5), "shift": jnp.float32(0)}
    v = jnp.stack([free, conditional])[None]

    def bridged(scale: float | None) -> Array:
        guide = Guide(None if scale is None else jnp.full(FRAMES, scale), jnp.ones(FRAMES))
        return bridge(Predicted(latents=latents, v=v, numbers=numbers, guide=guide, keyframes=keyframes))

    a, u = (edm.denoise(latents, x, jnp.float32(3.0)) for x in (conditional, free))
    for scale, clean in ((None, a), (2.0, u + 2 * (a - u))):
        expected = clean.at[:, -1].set(keyframes[1]) + 0.5 * (latents - u)
        assert goldens.relative(bridged(scale), expected) < 1e-6


def test_the_backward_half_is_the_forward_half_of_reversed_time():
    """One program serves both: the last update of ViBiD, computed by hand."""
    before, after = run("vibid", steps=1)
    noise = draws(1).recurrence[0]
    sigma = jnp.float32(700)
    latents = reverse_time(jnp.asarray(before) + 700 * noise)
    given = conditioning()
    swapped = Conditioning(given.image_embeds[1:], given.image_latents[1:], given.added_time_ids)
    v = predict_clips(plain_unet(), None, clips_of(latents, sigma, swapped, guided=True))[0]
    clean = edm.denoise(latents, v[1], sigma).at[:, -1].set(given.keyframe_latents[0])
    assert goldens.relative(after, reverse_time(clean)) < 1e-5


def test_a_method_of_ones_own():
    def cosine(predicted: Predicted) -> Array:
        weight = jnp.cos(jnp.linspace(0, jnp.pi / 2, FRAMES)) ** 2
        return euler(dataclasses.replace(predicted, guide=dataclasses.replace(predicted.guide, weight=weight)))

    method = Method(
        name="cosine",
        summary="cosine fusion",
        updates=lambda settings: [Update(start=i, stop=i + 1, step=cosine) for i in range(settings.steps)],
    )
    assert goldens.relative(run(method)[-1], run("trf")[-1]) > 0.01


def test_reused_deep_features_change_only_the_steps_that_reuse_them():
    every, second = run("dual"), run("dual", deep_every=2)
    np.testing.assert_allclose(second[0], every[0], rtol=1e-6)
    assert goldens.relative(second[1], every[1]) > 1e-4


def test_clean_keyframe_latents_are_needed():
    without = dataclasses.replace(conditioning(), keyframe_latents=None)
    with pytest.raises(InputError, match="keyframe_latents is None"):
        sample(plain_unet(), without, Settings(num_frames=FRAMES), draws(60), scheduler=EDM, method="vibid")


@pytest.mark.parametrize("passes", [None, "guidance"])
def test_the_disagreement_of_the_directions_is_observed(passes):
    found: list[np.ndarray] = []
    settings = settings_of("dual", {"num_frames": FRAMES, "steps": 2, "prefix": "mpd", "prefix_steps": 1}, {})
    plan = run_of("dual", settings, EDM)
    given = {"scheduler": EDM, "backward": Backward(), "passes": passes, "observe": found.append, "trajectory": True}
    _, trajectory = sample(plain_unet(), conditioning(), settings, draws(plan.recurrences), **given)
    (apart,) = found
    assert apart.shape == (2, 2)  # the updates with two directions, the pairs
    # the last update, by hand
    latents, sigma = jnp.asarray(trajectory[-2]), jnp.float32(plan.sigma[-1])
    v = predict_clips(plain_unet(), Backward(), clips_of(latents, sigma, conditioning(), guided=False))[:, 0]
    forward, backward = edm.denoise(latents, v[0], sigma), edm.denoise(latents, reverse_time(v[1]), sigma)
    norm = np.sqrt(np.square(forward - backward).sum((1, 2, 3, 4)) / np.square((forward + backward) / 2).sum((1, 2, 3, 4)))
    np.testing.assert_allclose(apart[-1], norm, rtol=1e-4)


def test_the_scale_is_applied_only_in_the_guided_steps():
    """ViBiD predicts without conditioning in all steps."""
    plain, late = run("vibid"), run("vibid", guidance=(1, 3), guidance_steps=(2, 4))
    np.testing.assert_allclose(late[:4], plain[:4], rtol=1e-5, atol=1e-5)
    assert goldens.relative(late[4], plain[4]) > 1e-3
