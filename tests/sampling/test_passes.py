"""The clips of an evaluation in one UNet call, or in several in turn: equal predictions, less memory."""

from __future__ import annotations

import dataclasses
import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, backward_tensors

from svdjax.config import EDMConfig, UNetConfig
from svdjax.errors import InputError
from svdjax.models.backward import EVERYWHERE, NOWHERE, UP_BLOCKS, Backward
from svdjax.models.unet import UNet
from svdjax.sampling.draws import draw
from svdjax.sampling.passes import backward_clip, evaluate, forward_clip, half
from svdjax.sampling.prediction import Conditioning, Guide, clips_of
from svdjax.sampling.runs import Kind
from svdjax.sampling.sampler import sample, scan
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import euler

FRAMES = 3
ALL_LAYERS = ("to_q", "to_k", "to_v", "to_out")


@functools.cache
def unet() -> UNet:
    return goldens.drawn(UNet, UNetConfig(**TINY), jnp.float32, seed=3)


def conditioning(directions: int, b: int = 2) -> Conditioning:
    rng = np.random.default_rng(5)
    embeds, latents = rng.standard_normal((directions, b, 1, 16)), rng.standard_normal((directions, b, 4, 6, 4))
    return Conditioning(jnp.asarray(embeds, jnp.float32), jnp.asarray(latents, jnp.float32), jnp.full((b, 3), 6.0))


def guide(guided: bool) -> Guide:
    return Guide(jnp.linspace(1.0, 3.0, FRAMES) if guided else None, jnp.linspace(1.0, 0.0, FRAMES))


METHODS = {
    "dual": lambda: Backward(backward_tensors(unet()), EVERYWHERE),
    "trf": lambda: Backward({}, NOWHERE),
    "no-finetune": lambda: Backward({}, UP_BLOCKS),
    "no-rotation": lambda: Backward(backward_tensors(unet(), ALL_LAYERS), NOWHERE),
    "forward": lambda: None,
}
AT = {"sigma": 1.5, "sigma_next": 1.0, "renoise": 0.5, "noise": 0}


# Compiling takes seconds.
@pytest.mark.parametrize(
    ("method", "guided", "passes"),
    [
        ("dual", True, ("clips",)),
        pytest.param("dual", True, ("guidance",), marks=pytest.mark.heavy),
        pytest.param("no-finetune", False, ("clips",), marks=pytest.mark.heavy),
        pytest.param("trf", True, ("guidance", "clips"), marks=pytest.mark.heavy),
        pytest.param("no-rotation", True, ("guidance", "clips"), marks=pytest.mark.heavy),
        pytest.param("forward", True, ("guidance",), marks=pytest.mark.heavy),
    ],
)
def test_evaluations_are_equal(method, guided, passes):
    backward = METHODS[method]()
    draws = draw([4, 5], (32, 48, 3), (FRAMES, 4, 6, 4))
    at = {name: jnp.asarray([value]) for name, value in AT.items()}
    latents = 2 * draws.initial
    inputs = at, conditioning(1 if backward is None else 2), guide(guided), draws
    kind = Kind(step=euler, single=False, unconditional=guided, guided=guided, renoises=True)
    together, *_ = scan(unet(), backward, latents + 0, *inputs, kind=kind, trajectory=False)
    for name in passes:
        in_turn, *_ = evaluate(unet(), backward, latents, *inputs, kind=kind, passes=name)
        assert goldens.relative(in_turn, together) < 1e-5, name


@pytest.mark.heavy
@pytest.mark.parametrize("passes", ["together", "guidance", "clips"])
def test_a_run_of_single_evaluations_equals_scans(passes):
    settings = Settings(num_frames=FRAMES, steps=3, recurrence=1, seed=11)
    draws = draw([settings.seed], (32, 48, 3), (FRAMES, 4, 6, 4))

    def run(passes: str | None) -> tuple[np.ndarray, list[tuple[int, int]]]:
        reports = []
        latents, trajectory = sample(
            unet(),
            conditioning(2, b=1),
            settings,
            draws,
            scheduler=EDMConfig(),
            backward=METHODS["dual"](),
            progress=lambda done, total: reports.append((done, total)),
            segments=2,
            passes=passes,
            trajectory=True,
        )
        np.testing.assert_array_equal(latents, trajectory[-1])
        return np.asarray(trajectory), reports

    (scans, reports), (single, its_reports) = run(None), run(passes)
    assert goldens.relative(single, scans) < 1e-5
    assert its_reports == reports == [(2, 4), (4, 4)]


def test_passes_that_are_unknown():
    draws = draw([0], (32, 48, 3), (FRAMES, 4, 6, 4))
    with pytest.raises(InputError, match="passes is 'one', expected one of together, guidance, clips, or None"):
        sample(unet(), conditioning(2, b=1), Settings(num_frames=3), draws, scheduler=EDMConfig(), passes="one")


@pytest.mark.heavy
def test_parts_need_less_scratch():
    """By the plan of the compiler."""
    network = jax.eval_shape(lambda: goldens.drawn(UNet, UNetConfig(**TINY), jnp.float32, seed=3))
    shape = (1, 8, 24, 32, 4)
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
    given = Conditioning(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 1, 1, 16), (2, 1, *shape[2:]), (1, 3))))
    clips = jax.eval_shape(functools.partial(clips_of, guided=True), latents, jax.ShapeDtypeStruct((), jnp.float32), given)
    backward = Backward({}, EVERYWHERE)
    parts = [jax.eval_shape(lambda clips, i=i: clips.some(slice(*i), slice(0, 1)), clips) for i in ((0, 2), (0, 1), (1, 2))]
    maps = jax.eval_shape(forward_clip, network, backward, parts[1])[1]
    whole, two, forward, reverse = (
        fn.lower(network, backward, *arguments).compile().memory_analysis().temp_size_in_bytes
        for fn, arguments in (
            (half, (clips,)),
            (half, parts[:1]),
            (forward_clip, parts[1:2]),
            (backward_clip, (parts[2], maps)),
        )
    )
    assert two < 0.6 * whole
    assert max(forward, reverse) < 0.75 * two


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["dual", "no-finetune"])
def test_reused_deep_features_are_equal_in_all_passes(method):
    settings = Settings(num_frames=FRAMES, steps=3, seed=11, deep_every=2)
    draws = draw([settings.seed], (32, 48, 3), (FRAMES, 4, 6, 4))

    def run(passes: str | None, settings: Settings = settings) -> np.ndarray:
        given = {"scheduler": EDMConfig(), "backward": METHODS[method](), "passes": passes, "trajectory": True}
        return np.asarray(sample(unet(), conditioning(2, b=1), settings, draws, **given)[1])

    expected = run(None)
    for passes in ("together", "guidance", "clips"):
        assert goldens.relative(run(passes), expected) < 1e-5, passes
    plain = run(None, dataclasses.replace(settings, deep_every=1))
    assert goldens.relative(expected[0], plain[0]) < 1e-6
    assert goldens.relative(expected[1], plain[1]) > 1e-4


@pytest.mark.heavy
def test_own_deep_features_change_nothing():
    clips = clips_of(draw([4], (32, 48, 3), (FRAMES, 4, 6, 4)).initial, jnp.float32(1.5), conditioning(2, b=1), guided=True)
    backward = METHODS["dual"]()
    v, deep = half(unet(), backward, clips, store=True)
    again, _ = half(unet(), backward, clips, deep)
    assert goldens.relative(again, v) < 1e-6
    assert goldens.relative(half(unet(), backward, clips, 1.1 * deep)[0], v) > 1e-4
