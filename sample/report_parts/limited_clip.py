"""One short clip while JAX may take only a part of the GPU's memory, as on a smaller card: its plan, and its real peak."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

import svdjax
from sample.benchmarking import timing
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts.whole_clip import keyframes, random_model, report_plan
from svdjax.models.svd import NETWORKS

STEPS = 2  # all steps need the same memory


def measure(request: Request, reporter: Reporter) -> None:
    """Report the plan within the memory of this process, and time and peak of a clip that follows it."""
    reporter.progress("making random weights in host memory")
    with jax.default_device(jax.devices("cpu")[0]):
        model = random_model(request)
    assert model.backward is not None
    networks = {name: jax.tree.map(np.asarray, getattr(model, name)) for name in NETWORKS}
    model = dataclasses.replace(model, **networks, backward={name: np.asarray(x) for name, x in model.backward.items()})
    reporter.results({"clip_limit_bytes": (jax.devices()[0].memory_stats() or {}).get("bytes_limit")})
    report_plan(model, request, STEPS, reporter)
    first, last = keyframes(request.size)
    for key in ("clip_first", "clip"):
        reporter.progress("first clip, with compilation" if key == "clip_first" else "second clip")
        started = time.perf_counter()
        svdjax.interpolate(model, first, last, steps=STEPS, num_frames=request.num_frames)
        reporter.results({f"{key}_seconds": time.perf_counter() - started, "clip_peak_bytes": timing.peak_bytes()})
    reporter.results({"clip_steps": STEPS})
