"""Parity: each stage of the embedded model against recorded float64 outputs of the official PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import svdjax
from sample.benchmarking.workloads import SIGMA, SIGMA_NEXT, StepInputs, decode, dual_step
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts.recording import EVERY, FILE, TIME_IDS
from svdjax.models.backward import Backward
from svdjax.models.svd import SVD
from svdjax.sampling.conditioning import encode_keyframes
from svdjax.sampling.prediction import Conditioning, Guide
from svdjax.sampling.settings import Settings

ALLOWED = 1e-4  # relative L2 distance in float32 with the highest precision: rounding is 1e-6 a layer; an error gives 1e-2
PRECISIONS = {"float32_highest": ("float32", "highest"), "bfloat16": ("bfloat16", None)}


def measure(request: Request, reporter: Reporter) -> None:
    """Report the distance of each stage from PyTorch in both precisions."""
    with np.load(FILE) as file:
        recorded = dict(file)
    for name, (dtype, precision) in PRECISIONS.items():
        reporter.progress(f"embedded model in {dtype}, matmul precision {precision or 'as by default'}")
        with jax.default_matmul_precision(precision):
            found = distances(svdjax.load("embedded", dtype=dtype), recorded)
        reporter.results({name: found})
        if precision == "highest" and not max(found.values()) <= ALLOWED:
            reporter.note(f"PARITY FAILED: a distance of {max(found.values()):.1e}, expected at most {ALLOWED:.0e} in float32")


def distances(model: SVD, recorded: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Relative L2 distance from the recorded array, by stage. Each stage starts from recorded arrays.

    Args:
        model: the embedded model in the dtype to examine; its VAE has at least float32.
        recorded: see `recording.record`.
    """
    assert model.backward is not None
    keyframes = recorded["clip"][[0, -1]][:, None]
    embeds, image_latents = jax.jit(encode_keyframes)(model.image_encoder, model.vae, keyframes, jnp.zeros(()), 0.0)
    settings = Settings(num_frames=len(recorded["clip"]))
    inputs = StepInputs(
        latents=jnp.asarray(recorded["noisy"]),
        sigma=jnp.float32(SIGMA),
        sigma_next=jnp.float32(SIGMA_NEXT),
        conditioning=Conditioning(
            image_embeds=jnp.asarray(recorded["image_embeds"], model.unet.dtype),
            image_latents=jnp.asarray(recorded["image_latents"]),
            added_time_ids=jnp.asarray([TIME_IDS]),
        ),
        guide=Guide(jnp.asarray(settings.guidance_scale(), jnp.float32), jnp.asarray(settings.forward_weight(), jnp.float32)),
    )
    _, v = jax.jit(dual_step)(model.unet, Backward(model.backward), inputs)
    frames = jax.jit(decode)(model.vae, jnp.asarray(recorded["latents"]))
    return {
        "image_embeds": relative(embeds, recorded["image_embeds"]),
        "image_latents": relative(image_latents, recorded["image_latents"]),
        "v": relative(v, recorded["v"]),
        "frames": relative(frames[:, :, ::EVERY, ::EVERY], recorded["frames"]),
    }


def relative(actual: Any, expected: np.ndarray) -> float:
    """L2 distance relative to the norm of `expected`, in float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
