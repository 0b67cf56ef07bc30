"""Text report of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping

from sample.benchmarking.results import Comparison, Measurements, ProgramResult, ProgramTiming, Setup, Timings, TrainingSetup
from sample.planning import collectives
from sample.planning.plan import Plan
from sample.planning.table import rates
from sample.planning.table import table as table_of_programs
from svdjax.kernels.choice import XLA

Rows = list[tuple[str, str]]  # label, value with details

_SAMPLING: Rows = [("", "a dual step is both directions with guidance, 4 clips in one UNet call, and the Euler update")]
_PEAK_OF = {"cpu": "resident, the whole process"}
_OTHER_ARGUMENTS = {"train_step": "AdamW's state, batch"}


def table(setup: Setup, measured: Measurements) -> str:
    """One line per quantity: label, value, details."""
    rows = _heading(setup) + (_SAMPLING if measured.training is None else _training(measured.training))
    if measured.mesh is not None:
        rows.append(("mesh", _devices(measured.mesh)))
    for program in measured.programs:
        if program.timing is None:
            rows += _planned(program, in_total=measured.training is not None)
        else:
            rows += _timed(program, program.timing, setup.platform, steps_per_second=measured.training is not None)
    if measured.matmul is not None:
        rows.append(_share(setup, measured))
    if measured.comparison is not None:
        rows += _comparison(measured.comparison)
    lines = _aligned(rows)
    if measured.traffic is not None:
        name = measured.step.name.replace("_", " ")
        lines += ["", f"communication of a {name}, as compiled for this device:", collectives.table(measured.traffic)]
    return "\n".join([*lines, "", f"to repeat: {setup.command}"])


def plan_table(setup: Setup, plan: Plan) -> str:
    """The report of programs that were compiled for another device."""
    rows = _heading(setup) + (_SAMPLING if plan.training is None else _training(plan.training)) + rates(plan)
    return "\n".join([*_aligned(rows), "", table_of_programs(plan), "", f"to repeat: {setup.command}"])


def _aligned(rows: Rows) -> list[str]:
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {text}".rstrip() for label, text in rows]


def _heading(setup: Setup) -> Rows:
    f, h, w, c = setup.latent_shape
    parameters = f"{setup.unet_parameters / 1e6:,.1f} M parameters"
    kernels = "" if setup.kernels == XLA else f", {setup.kernels} kernels"
    return [
        ("date", setup.date),
        ("device", setup.device),
        ("versions", ", ".join(f"{name} {version}" for name, version in setup.versions.items())),
        ("model", f"{setup.model}: UNet of {parameters}, random weights, {setup.dtype}{kernels}"),
        ("clip", f"{f} frames of {setup.width}x{setup.height}, latents {h}x{w}x{c}"),
    ]


def _training(training: TrainingSetup) -> Rows:
    kept = "activations recomputed block by block" if training.remat else "all activations kept"
    clips = f"{training.batch_size} clip{'s' * (training.batch_size != 1)} in total"
    parameters = f"{training.trained_parameters / 1e6:,.1f} M parameters trained in float32"
    return [
        ("", "a training step is the frozen pass, the differentiated pass, its gradient, and AdamW; no encoding"),
        ("batch", f"{clips} on {_devices(training.mesh)}, {parameters}, {kept}"),
    ]


def _devices(mesh: Mapping[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "one device"


def _planned(program: ProgramResult, *, in_total: bool) -> Rows:
    label, plan = program.name.replace("_", " "), program.plan
    others = _OTHER_ARGUMENTS.get(program.name, "latents")
    rows = [
        (f"{label}: operations", _tera(program.flops or 0)),
        (f"{label}: scratch", f"{_giga(plan.scratch_bytes)} as compiled for this device"),
        (f"{label}: arguments", f"{_giga(plan.argument_bytes)} (weights, {others})"),
    ]
    if in_total:
        rows.append((f"{label}: total", f"{_giga(plan.total_bytes)} on each device"))
    return [*rows, (f"{label}: compiling", f"{plan.trace_seconds + plan.compile_seconds:.1f} s, tracing included")]


def _timed(program: ProgramResult, timing: ProgramTiming, platform: str, *, steps_per_second: bool) -> Rows:
    plan, median = program.plan, timing.seconds.median
    compiling = f"{plan.compile_seconds:.1f} s"
    if plan.compile_seconds_warm:
        compiling += f" cold, {plan.compile_seconds_warm:.1f} s from the persistent cache"
    rate = f", {1 / median:.3f} steps/s" if steps_per_second else ""
    return [
        (program.name.replace("_", " "), _seconds(timing.seconds) + rate),
        ("  operations", f"{_tera(program.flops or 0)}, {_tera(program.flops_per_second or 0)}/s"),
        ("  compiling", f"{compiling}, and {plan.trace_seconds:.1f} s of tracing"),
        ("  scratch", f"{_giga(plan.scratch_bytes)} planned by XLA"),
        ("  peak memory", f"{_giga(timing.peak_bytes)} {_PEAK_OF.get(platform, 'used on the device so far')}"),
    ]


def _share(setup: Setup, measured: Measurements) -> tuple[str, str]:
    assert measured.matmul is not None
    size, rate = measured.matmul.size, measured.matmul.flops_per_second
    share = f"a {measured.step.name.replace('_', ' ')} reaches {measured.share_of_matmul:.0%} of it"
    return "matrix product", f"{_tera(rate)}/s for {size}x{size} in {setup.dtype}; {share}"


def _comparison(comparison: Comparison) -> Rows:
    difference = f"v differs by {comparison.relative_difference:.1e}"
    if comparison.relative_difference_of_loss is not None:
        loss = f"loss differs by {comparison.relative_difference_of_loss:.1e}"
        difference = f"{loss}, gradients by {comparison.relative_difference:.1e}"
    versions = f"{comparison.diffusers}, torch {comparison.torch}"
    ratios = f"{comparison.ratio:.2f} official to svdjax, {comparison.ratio_lean:.2f} lean to svdjax (medians)"
    return [
        ("against diffusers", f"{versions}, timed alternately; same weights, {difference}"),
        ("  svdjax", _seconds(comparison.ours)),
        ("  official", _seconds(comparison.official)),
        ("  lean", f"{_seconds(comparison.lean)}: without the maps that the official code multiplies by zero"),
        ("  ratios", ratios),
        ("  peak memory", f"{_giga(comparison.peak_bytes)} official; weights that both UNets share are held once"),
    ]


def _seconds(timings: Timings) -> str:
    return f"{timings.median:.3f} s median of {len(timings.seconds)} ({min(timings.seconds):.3f} to {max(timings.seconds):.3f})"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3f} TFLOP"


def _giga(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
