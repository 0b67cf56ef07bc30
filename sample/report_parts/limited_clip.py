"""One short clip while JAX may take only a part of the GPU's memory, as on a smaller card: its plan, and its real peak."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

import svdjax
from sample.benchmarking import timing
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts.whole_clip import keyframes, random_model
from svdjax.models.svd import NETWORKS
from svdjax.pipeline import settings_for
from svdjax.sampling.clip_plan import plan_for
from svdjax.sampling.clip_work import ClipWork

STEPS = 2  # all steps need the same memory


def measure(request: Request, reporter: Reporter) -> None:
    """Report the plan within the memory of this process, and time and peak of a clip that follows it."""
    reporter.progress("making random weights in host memory")
    with jax.default_device(jax.devices("cpu")[0]):
        model = random_model(request)
    assert model.backward is not None
    networks = {name: jax.tree.map(np.asarray, getattr(model, name)) for name in NETWORKS}
    model = dataclasses.replace(model, **networks, backward={name: np.asarray(x) for name, x in model.backward.items()})
    reporter.progress("planning: compiling the programs")
    started = time.perf_counter()
    settings = settings_for(model, "dual", steps=STEPS, num_frames=request.num_frames)
    plan = plan_for(ClipWork(model=model, size=request.size, settings=settings), None)
    if plan is not None:
        reporter.note("; ".join(plan.describe()))
        reporter.results({"clip_total_bytes": plan.peak_bytes, "clip_transfer_bytes": plan.transfer_bytes})
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    reporter.results({"clip_plan_seconds": time.perf_counter() - started, "clip_limit_bytes": limit})
    first, last = keyframes(request.size)
    for key in ("clip_first", "clip"):
        reporter.progress("first clip, with compilation" if key == "clip_first" else "second clip")
        started = time.perf_counter()
        svdjax.interpolate(model, first, last, steps=STEPS, num_frames=request.num_frames)
        reporter.results({f"{key}_seconds": time.perf_counter() - started, "clip_peak_bytes": timing.peak_bytes()})
    reporter.results({"clip_steps": STEPS})
