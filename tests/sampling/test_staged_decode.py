"""Staged decode: equal frames under every plan, its memory and its transfers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import make_vae

from svdjax.config import VAEConfig
from svdjax.decoding import decode_steps, staged_decode
from svdjax.decoding.decode_steps import DecodePlan, to_levels
from svdjax.devices.target import Target
from svdjax.errors import InputError
from svdjax.memory.programs import ProgramMemory, compile_here
from svdjax.models.svd import abstract_model
from svdjax.models.vae import VAE
from svdjax.presets import TINY
from svdjax.sampling.clip_plan import plan_decoding
from svdjax.sampling.clip_work import ClipWork
from svdjax.sampling.settings import Settings

# A small VAE with an upsampler, a change of width, and temporal resnets at two sizes.
CONFIG = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}
SCALING_FACTOR = 0.18215


IN_PARTS = DecodePlan(block_bytes=2**14)  # three frames and one row at a time at the small size, one frame at the full size
IN_PASSES = replace(IN_PARTS, in_passes=True)
PLANS = {
    "whole": DecodePlan(block_bytes=2**30, temporal="whole"),
    "in parts": IN_PARTS,
    "hidden stored": replace(IN_PARTS, temporal="stored"),
    "in passes": IN_PASSES,
    "partly in passes": replace(IN_PASSES, resident_bytes=3 * 3 * 4 * 64 * 4),  # up to the small size's activations
}


@pytest.fixture(scope="module")
def vae() -> VAE:
    return make_vae(CONFIG, goldens.torch_weights("vae", CONFIG))


def whole(vae: VAE, z: np.ndarray) -> np.ndarray:
    """Frames of `VAE.decode` in one program without blocks."""
    return np.asarray(jax.jit(lambda vae, z: to_levels(vae.decode(z / SCALING_FACTOR)))(vae, z))


def assert_same(frames: np.ndarray, expected: np.ndarray) -> None:
    """Equal, but for values that round to the neighbouring level."""
    assert (frames.shape, frames.dtype) == (expected.shape, np.uint8)
    difference = np.abs(frames.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def latents(*shape: int) -> np.ndarray:
    return goldens.draw("latents", shape)


@pytest.mark.parametrize("name", PLANS)
def test_plans_give_the_same_frames(vae, name, monkeypatch):
    """Two clips of three frames and rows, by as many runs of each function as `programs` says."""
    z = latents(2, 3, 3, 4, 4)
    calls, planned = Counter(), Counter()

    def counted(fn):
        compiled = decode_steps.jitted(fn)
        return lambda *args, **static: calls.update([compiled]) or compiled(*args, **static)

    monkeypatch.setattr(staged_decode, "jitted", counted)
    frames = staged_decode.decode(vae, jnp.asarray(z), SCALING_FACTOR, PLANS[name])
    monkeypatch.undo()
    expected = whole(vae, z)
    assert np.std(expected.astype(float)) > 20  # the comparison says something
    assert_same(frames, expected)
    for program, _, runs in staged_decode.programs(vae.config, z.shape, jnp.float32, PLANS[name]):
        planned[program.fn] += runs
    assert calls == planned


def test_single_frame(vae):
    z = latents(1, 1, 2, 2, 4)
    expected = whole(vae, z)
    for plan in (IN_PARTS, IN_PASSES):
        assert_same(staged_decode.decode(vae, jnp.asarray(z), SCALING_FACTOR, plan), expected)


def test_plans_divide(vae):
    """The plans of these tests do what their names say."""

    def steps(name: str) -> list[decode_steps.Step]:
        return list(decode_steps.steps_of(vae, (3, 3, 4, 4), PLANS[name]))

    assert {step.result.frames for step in steps("whole")} == {3}
    assert {step.result.frames for step in steps("in parts")} == {3, 1}
    assert {step.rows for step in steps("in parts")[:-1]} == {1}
    assert all(step.result.in_host for step in steps("in passes")[:-1])
    assert {step.result.in_host for step in steps("partly in passes")[:-1]} == {False, True}


def test_transfers_are_counted(vae, monkeypatch):
    """Bytes that arrive on the device and leave it, against the plan's count."""
    moved = []
    real_asarray = jnp.asarray
    monkeypatch.setattr(staged_decode, "to_device", lambda x: moved.append(x.nbytes) or real_asarray(x))
    real_write = staged_decode.write
    monkeypatch.setattr(staged_decode, "write", lambda y, at: moved.append(y.nbytes) or real_write(y, at))
    z = latents(1, 3, 3, 4, 4)
    for name in ("in parts", "in passes", "partly in passes"):
        moved.clear()
        staged_decode.decode(vae, jnp.asarray(z), SCALING_FACTOR, PLANS[name])
        assert sum(moved) == staged_decode.transfer_bytes(vae.config, z.shape, jnp.float32, PLANS[name])
    assert sum(moved) > 0


def test_candidates():
    """SVD-XT: each plan costs more than the one before, and fewer activations are on the device."""
    config, shape = VAEConfig(), (1, 25, 72, 128, 4)
    plans = staged_decode.candidates(config, shape, jnp.float32)
    transfers = [staged_decode.transfer_bytes(config, shape, jnp.float32, plan) for plan in plans]
    assert transfers == sorted(transfers)
    full = 25 * 576 * 1024 * 128 * 4
    assert transfers[:4] == [0, 0, 0, 15 * full]  # three temporal halves three times each; spatial layers
    least = [staged_decode.least_bytes(config, shape, jnp.float32, plan) for plan in plans]
    assert least == sorted(least, reverse=True)
    assert [round(n / full) for n in least[:3]] == [3, 2, 1]
    assert least[2] < 1.15 * full
    assert least[3] < 0.65 * full


def test_memory(vae):
    """Compiled programs: one full-size activation on the device, or only a few blocks of it."""
    shape = (1, 24, 64, 64, 4)
    buffer = 24 * 128 * 128 * 32 * 4

    for in_passes, most in ((False, 1.4), (True, 0.5)):
        plan = DecodePlan(block_bytes=2**19, in_passes=in_passes)
        peak = staged_decode.phase(vae.config, shape, jnp.float32, plan, compile_here).peak_bytes
        assert staged_decode.least_bytes(vae.config, shape, jnp.float32, plan) < peak < most * buffer


def test_unusable_memory_of_an_accelerator(monkeypatch):
    """Free memory is in pieces there: a plan is taken only if the device has more than its peak."""

    def compile_nothing(program):
        return ProgramMemory(2**20, 0, 0)

    work = ClipWork(model=abstract_model(TINY, "float32"), size=(64, 64), settings=Settings(num_frames=8), method="forward")
    decoded = TINY.vae, (1, *work.latent_shape), work.vae_dtype
    first, *_ = staged_decode.candidates(*decoded)
    on_cpu = staged_decode.phase(*decoded, first, compile_nothing)
    assert on_cpu.needed_bytes == on_cpu.peak_bytes
    assert plan_decoding(work, on_cpu.peak_bytes, compile=compile_nothing) == first
    monkeypatch.setattr(staged_decode, "target", lambda: Target("gpu"))
    needed = staged_decode.phase(*decoded, first, compile_nothing).needed_bytes
    assert needed == on_cpu.peak_bytes + int(0.16 * on_cpu.peak_bytes)
    assert plan_decoding(work, needed, compile=compile_nothing) == first
    with pytest.raises(InputError, match="need at least"):  # a tiny model's other plans need no less
        plan_decoding(work, needed - 1, compile=compile_nothing)
