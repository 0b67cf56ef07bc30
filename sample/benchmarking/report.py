"""The benchmark's numbers as a table to read."""

from __future__ import annotations

from typing import Any

from sample.benchmarking import collectives

Results = dict[str, Any]


def table(results: Results) -> str:
    """One line a quantity: what it is, its value, what it is made of."""
    training = "train_step_flops" in results
    names = ("train_step",) if training else ("dual_step", "decode")
    rows = _heading(results) + (_training(results) if training else _SAMPLING)
    for name in names:
        rows += _plan(results, name) if results["compile_only"] else _measured(results, name)
    if not results["compile_only"]:
        rows.append(_share(results, names[0]))
    if "against_diffusers" in results:
        rows += _comparison(results["against_diffusers"])
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}".rstrip() for name, text in rows]
    if "train_step_traffic" in results:
        traffic = [collectives.Traffic(**row) for row in results["train_step_traffic"]]
        lines += ["", "a training step sends, as compiled for this device:", collectives.table(traffic)]
    return "\n".join([*lines, "", f"again with: {results['command']}"])


_SAMPLING = [("", "a dual step is both directions with guidance, 4 clips in one UNet call, and the Euler update")]


def _heading(r: Results) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in r["versions"].items())
    f, h, w, c = r["latent_shape"]
    return [
        ("date", r["date"]),
        ("device", r["device"]),
        ("versions", versions),
        ("model", f"{r['model']}: UNet of {r['unet_parameters'] / 1e6:,.1f} M parameters, random weights, {r['dtype']}"),
        ("clip", f"{f} frames of {r['width']}x{r['height']}, latents {h}x{w}x{c}"),
    ]


def _training(r: Results) -> list[tuple[str, str]]:
    kept = "activations computed again by block" if r["remat"] else "all activations kept"
    mesh = " ".join(f"{axis}={size}" for axis, size in r["mesh"].items() if size > 1) or "one device"
    clips = f"{r['batch_size']} clip{'s' * (r['batch_size'] != 1)} in all"
    return [
        ("", "a training step is the frozen pass, the pass that is differentiated, its gradient, and AdamW; no encoding"),
        ("batch", f"{clips} on {mesh}, {r['trained_parameters'] / 1e6:,.1f} M parameters trained in float32, {kept}"),
    ]


def _plan(r: Results, name: str) -> list[tuple[str, str]]:
    label = name.replace("_", " ")
    rows = [
        (f"{label}: operations", _tera(r[f"{name}_flops"])),
        (f"{label}: scratch", f"{_giga(r[f'{name}_scratch_bytes'])} as compiled for this device"),
        (f"{label}: arguments", f"{_giga(r[f'{name}_argument_bytes'])} (weights, {_ARGUMENTS.get(name, 'latents')})"),
        (f"{label}: compiling", f"{r[f'{name}_trace_seconds'] + r[f'{name}_compile_seconds']:.1f} s, tracing included"),
    ]
    if f"{name}_total_bytes" in r:
        rows.insert(3, (f"{label}: in all", f"{_giga(r[f'{name}_total_bytes'])} on each device"))
    return rows


_ARGUMENTS = {"train_step": "AdamW's state, batch"}


def _measured(r: Results, name: str) -> list[tuple[str, str]]:
    compiling = f"{r[f'{name}_compile_seconds']:.1f} s"
    if warm := r.get(f"{name}_compile_seconds_warm"):
        compiling += f" cold, {warm:.1f} s from the persistent cache"
    rate = f", {r[f'{name}s_per_second']:.3f} steps/s" if f"{name}s_per_second" in r else ""
    return [
        (name.replace("_", " "), _seconds(r, f"{name}_seconds") + rate),
        ("  operations", f"{_tera(r[f'{name}_flops'])}, {_tera(r[f'{name}_flops_per_second'])}/s"),
        ("  compiling", f"{compiling}, and {r[f'{name}_trace_seconds']:.1f} s of tracing"),
        ("  scratch", f"{_giga(r[f'{name}_scratch_bytes'])} planned by XLA"),
        ("  peak memory", f"{_giga(r[f'{name}_peak_bytes'])} {_PEAKS.get(r['platform'], 'used on the device so far')}"),
    ]


def _share(r: Results, name: str) -> tuple[str, str]:
    n, rate = r["matmul_size"], r["matmul_flops_per_second"]
    share = f"a {name.replace('_', ' ')} reaches {r[f'{name}_share_of_matmul']:.0%} of it"
    return "matrix product", f"{_tera(rate)}/s for {n}x{n} in {r['dtype']}; {share}"


_PEAKS = {"cpu": "resident, the whole process"}


def _comparison(r: Results) -> list[tuple[str, str]]:
    rows = [
        ("against diffusers", f"{r['diffusers']}, torch {r['torch']}, timed in turn; same weights, {_agreement(r)}"),
        ("  svdjax", _seconds(r, "ours_seconds")),
        ("  official way", _seconds(r, "diffusers_seconds")),
        ("  lean", f"{_seconds(r, 'diffusers_lean_seconds')}: without the maps that the official code multiplies by zero"),
        ("  ratios", f"{r['ratio']:.2f} official to svdjax, {r['ratio_lean']:.2f} lean to svdjax (medians)"),
        ("  peak memory", f"{_giga(r['diffusers_peak_bytes'])} official, the weights both UNets share held once"),
    ]
    return rows


def _agreement(r: Results) -> str:
    if "relative_difference_of_loss" not in r:
        return f"v differs by {r['relative_difference']:.1e}"
    return f"loss differs by {r['relative_difference_of_loss']:.1e}, gradients by {r['relative_difference']:.1e}"


def _seconds(r: Results, name: str) -> str:
    return f"{r[name]:.3f} s median of {len(r[f'{name}_all'])} ({r[f'{name}_min']:.3f} to {r[f'{name}_max']:.3f})"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3f} TFLOP"


def _giga(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
