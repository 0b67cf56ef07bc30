"""The programs of a raised frame rate: those of the clip where there are such, otherwise planned and compiled before."""

from __future__ import annotations

import functools
from collections import Counter

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import svdjax
from sample.interpolate import main
from svdjax import chain
from svdjax.config import EDMConfig
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.frame_rate import sampling
from svdjax.frame_rate.clips import raise_rate
from svdjax.models.svd import abstract_model
from svdjax.models.vae import encoding_part
from svdjax.presets import TINY
from svdjax.sampling import generation
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.clip_work import ClipWork, sample_programs
from svdjax.sampling.methods import run_of, settings_of
from svdjax.sampling.runs import window_passes, window_program
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import euler

KEYFRAMES = [goldens.keyframe(k)[:16, :32] for k in (1, 2)]


@functools.cache
def tiny():
    return abstract_model(TINY, "float32")


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path, image in zip(paths, KEYFRAMES, strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def test_windows_use_the_program_that_was_planned_for_the_clip(lively_model, files, tmp_path, compilations):
    words = ("--size", "32x16", "--steps", "1", "--num-frames", "5", "--method", "trf", "--rate", "2", "--memory", "0.5")
    with compilations() as found:
        assert main([*files, "--model", str(lively_model), *words, "-o", str(tmp_path / "out.mp4")]) == 0
    assert [found.count(f"jit({name})") for name in ("scan", "encode_keyframes")] == [1, 1]


def test_windows_use_the_program_of_a_clip_without_a_plan(lively_model, compilations):
    """Which has one update per call then."""
    with compilations() as found:
        svdjax.interpolate(svdjax.load(lively_model), *KEYFRAMES, num_frames=5, steps=2, recurrence=0, method="trf", rate=2)
    assert found.count("jit(scan)") == 1


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("trf", {"num_frames": 4}, {"scan": 2}),
        pytest.param("vibid", {}, {"scan": 1, "forward_clip": 1, "backward_clip": 1}, marks=pytest.mark.heavy),
    ],
)
def test_other_programs_of_windows_are_planned(lively_model, compilations, monkeypatch, method, options, names):
    """All are compiled when the first program of the run is called."""
    model, before = svdjax.load(lively_model), []
    sample_pair = chain.sample_pair
    with compilations() as found:

        def counted(*args, **kw):
            before.extend(found)
            return sample_pair(*args, **kw)

        monkeypatch.setattr(chain, "sample_pair", counted)
        settings = {"num_frames": 5, "steps": 1, "recurrence": 0, "memory": 0.5, "rate": 2, **options}
        svdjax.interpolate(model, *KEYFRAMES, method=method, **settings)
    for seen in (before, found):
        counts = {name: seen.count(f"jit({name})") for name in ("scan", "half", "forward_clip", "backward_clip")}
        assert {name: count for name, count in counts.items() if count} == names


@pytest.mark.parametrize(
    ("method", "given", "own"),
    [
        ("trf", {}, False),
        ("forward", {}, False),
        ("dual", {"recurrence": 2}, False),
        ("dual", {"prefix": "mpd"}, False),
        ("trf", {"guidance_steps": (1, 2)}, False),
        ("trf", {"deep_every": 2}, False),
        ("trf", {"schedule": "lcm"}, False),
        ("vibid", {}, True),
        ("trf", {"num_frames": 6}, True),
    ],
)
def test_the_program_of_windows(method, given, own):
    settings = settings_of(method, {"num_frames": 5, "steps": 3, **given}, {})
    run = run_of(method, settings, EDMConfig())
    kind, numbers = window_program(run, settings, 4, jnp.float32)
    assert (kind.step, kind.single) == (euler, False)
    assert kind.guided is kind.unconditional is bool((settings.guidance_scale(run.directions) != 1).any())
    assert kind.deep != "reuse"
    work = ClipWork(model=tiny(), size=(64, 64), settings=settings, method=method, rate=4)
    assert len(sample_programs(work, "together")[0]) == len(set(run.kinds)) + (2 if method == "vibid" else own)
    if not own:
        assert kind in run.kinds
        assert numbers.keys() == run.rows(run.kinds.index(kind), run.kinds.index(kind) + 1, jnp.float32).keys()
        assert not numbers["renoise"].any()
    assert window_passes(run, "guidance") == ("clips" if method == "vibid" else "guidance")


def test_progress_is_reported_when_a_step_has_ended(monkeypatch, lively_model):
    """After the check of its latents, once per step."""
    model, events = svdjax.load(lively_model), []
    step = sampling._step

    def stepped(*args):
        events.append("step")
        return step(*args)

    monkeypatch.setattr(sampling, "_step", stepped)
    settings = {"num_frames": 3, "steps": 1, "method": "forward"}
    svdjax.interpolate(model, *KEYFRAMES, rate=2, progress=lambda done, total: events.append((done, total)), **settings)
    steps = len(sampling.levels(model.config.scheduler)) - 1
    count = (events[-1][1] - 1) // steps  # windows
    reports = [(1 + count * (k + 1), 1 + count * steps) for k in range(steps)]
    assert events == [(1, 1 + count * steps), *(event for report in reports for event in ("step", report))]
    # latents that aren't finite are no progress
    monkeypatch.setattr(sampling, "_step", lambda x, *_: x * np.nan)
    events.clear()
    with pytest.raises(FloatingPointError, match="after step 1 of 8 at the higher frame rate"):
        svdjax.interpolate(model, *KEYFRAMES, rate=2, progress=lambda done, total: events.append((done, total)), **settings)
    assert events == [(1, 1 + count * steps)]


def test_encoders_are_sent_to_the_device_once(monkeypatch):
    """Those of a model in host memory, for all windows; nothing else of its VAE."""
    model, sent = svdjax.load("embedded", offload=True), Counter()
    put = jax.device_put

    def counted(tree, *args, **kw):
        sent.update(id(x) for x in jax.tree.leaves(tree) if isinstance(x, np.ndarray))
        return put(tree, *args, **kw)

    monkeypatch.setattr(jax, "device_put", counted)
    monkeypatch.setattr(generation, "encode", lambda *_: (jnp.zeros((2, 1, 1, 8)), jnp.zeros((2, 1, 8, 8, 4))))
    monkeypatch.setattr(sampling, "refine", lambda unet, backward, latents, draws, conditionings, *_, **__: conditionings)
    plan = ClipPlan(
        passes="together", offload=True, decode=DecodePlan(block_bytes=1), phases=(), transfer_bytes=0, budget_bytes=0
    )
    frames, latents = np.zeros((1, 5, 64, 64, 3), np.uint8), jnp.zeros((1, 5, 8, 8, 4))
    assert len(raise_rate(model, latents, frames, Settings(num_frames=5), 2, plan=plan)) == 3
    encoders = jax.tree.leaves((model.image_encoder, encoding_part(model.vae)))
    assert {sent[id(x)] for x in encoders} == {1}
    assert not {id(x) for x in jax.tree.leaves(model.vae.decoder)} & sent.keys()
