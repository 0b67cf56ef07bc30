"""One clip from two keyframes to a video file, with random weights: encoding, 10 steps, decoding, writing."""

from __future__ import annotations

import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import svdjax
from sample.benchmarking import timing, workloads
from sample.gpu_report.channel import Reporter, Request
from svdjax.media.output_plan import OutputPlan, plan_output
from svdjax.media.video import write_video
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, SVD, fill, leaves
from svdjax.pipeline import settings_for
from svdjax.sampling.clip_plan import plan_for
from svdjax.sampling.clip_work import ClipWork

STEPS = 10
FILE = "clip.mp4"
FPS = 7


def measure(request: Request, reporter: Reporter) -> None:
    """Report the plan with its time, the time of a first clip, with all other compilation, and of a second one."""
    output = plan_output(Path(request.folder) / FILE, overwrite=True, size=request.size, fps=FPS)
    reporter.progress("making random weights")
    model = random_model(request)
    report_plan(model, request, STEPS, reporter)
    for key, which in (("clip_first", "first clip, with compilation"), ("clip", "second clip")):
        reporter.progress(which)
        _make_clip(model, request, output, key, reporter)
        reporter.results({"clip_steps": STEPS, "clip_frames": request.num_frames, "file": FILE})


def _make_clip(model: SVD, request: Request, output: OutputPlan, key: str, reporter: Reporter) -> None:
    """Make and write a clip; report each time as soon as it is known, under keys that begin with `key`, and the peak."""
    first, last = keyframes(request.size)
    started = sampled = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal sampled
        sampled = time.perf_counter()
        if done == total:
            reporter.results({f"{key}_encode_and_sample_seconds": sampled - started})

    frames = svdjax.interpolate(model, first, last, steps=STEPS, num_frames=request.num_frames, progress=progress)
    decoded = time.perf_counter()
    reporter.results({f"{key}_decode_seconds": decoded - sampled, "clip_peak_bytes": timing.peak_bytes()})
    write_video(output, frames, FPS)
    written = time.perf_counter()
    reporter.results({f"{key}_write_seconds": written - decoded, f"{key}_seconds": written - started})


def report_plan(model: SVD, request: Request, steps: int, reporter: Reporter) -> None:
    """Report the plan of a clip within JAX's memory and how long planning took (none on a CPU), and the peak so far."""
    reporter.progress("planning: compiling the programs")
    started = time.perf_counter()
    settings = settings_for(model, "dual", steps=steps, num_frames=request.num_frames)
    plan = plan_for(ClipWork(model=model, size=request.size, settings=settings), None)
    if plan is not None:
        reporter.note("; ".join(plan.describe()))
        seconds = time.perf_counter() - started
        values = {"clip_total_bytes": plan.peak_bytes, "clip_transfer_bytes": plan.transfer_bytes}
        reporter.results({"clip_plan_seconds": seconds, **values})
    reporter.results({"clip_peak_before_bytes": timing.peak_bytes()})


def random_model(request: Request) -> SVD:
    """The whole model with random weights."""
    weights = workloads.RandomWeights()
    networks = {}
    for name, cls in NETWORKS.items():
        config = getattr(request.config, name)
        upcast = name == "vae" and config.force_upcast
        network = abstract(cls, config, stats_dtype(request.dtype) if upcast else jnp.dtype(request.dtype))
        networks[name] = fill(network, weights(leaves(network)))
    own = leaves(networks["unet"])
    tuned = {name: own[name] for name in names_of_kinds(own, VALUES)}
    return SVD(config=request.config, **networks, backward=weights(tuned))


def keyframes(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth pictures, uint8 (H, W, 3): colour gradients, one the mirror image of the other."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    first = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    return first, first[:, ::-1].copy()
