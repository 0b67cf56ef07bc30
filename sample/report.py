"""The benchmark's numbers as a table to read."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]


def table(results: Results) -> str:
    """One line a quantity: what it is, its value, what it is made of."""
    rows = _heading(results)
    rows += _plan(results) if results["compile_only"] else _measured(results)
    if "against_diffusers" in results:
        rows += _comparison(results["against_diffusers"])
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}".rstrip() for name, text in rows]
    return "\n".join([*lines, "", f"again with: {results['command']}"])


def _heading(r: Results) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in r["versions"].items())
    f, h, w, c = r["latent_shape"]
    return [
        ("date", r["date"]),
        ("device", r["device"]),
        ("versions", versions),
        ("model", f"{r['model']}: UNet of {r['unet_parameters'] / 1e6:,.1f} M parameters, random weights, {r['dtype']}"),
        ("clip", f"{f} frames of {r['width']}x{r['height']}, latents {h}x{w}x{c}"),
        ("", "a dual step is both directions with guidance, 4 clips in one UNet call, and the Euler update"),
    ]


def _plan(r: Results) -> list[tuple[str, str]]:
    rows = []
    for name in ("dual_step", "decode"):
        label = name.replace("_", " ")
        rows += [
            (f"{label}: operations", _tera(r[f"{name}_flops"])),
            (f"{label}: scratch", f"{_giga(r[f'{name}_scratch_bytes'])} as compiled for this device"),
            (f"{label}: arguments", f"{_giga(r[f'{name}_argument_bytes'])} (weights, latents)"),
            (f"{label}: compiling", f"{r[f'{name}_trace_seconds'] + r[f'{name}_compile_seconds']:.1f} s, tracing included"),
        ]
    return rows


def _measured(r: Results) -> list[tuple[str, str]]:
    rows = []
    for name in ("dual_step", "decode"):
        label = name.replace("_", " ")
        compiling = f"{r[f'{name}_compile_seconds']:.1f} s"
        if warm := r.get(f"{name}_compile_seconds_warm"):
            compiling += f" cold, {warm:.1f} s from the persistent cache"
        rows += [
            (label, _seconds(r, f"{name}_seconds")),
            ("  operations", f"{_tera(r[f'{name}_flops'])}, {_tera(r[f'{name}_flops_per_second'])}/s"),
            ("  compiling", f"{compiling}, and {r[f'{name}_trace_seconds']:.1f} s of tracing"),
            ("  scratch", f"{_giga(r[f'{name}_scratch_bytes'])} planned by XLA"),
            ("  peak memory", f"{_giga(r[f'{name}_peak_bytes'])} {_PEAKS.get(r['platform'], 'used on the device so far')}"),
        ]
    n, rate = r["matmul_size"], r["matmul_flops_per_second"]
    share = f"a dual step reaches {r['dual_step_share_of_matmul']:.0%} of it"
    return [*rows, ("matrix product", f"{_tera(rate)}/s for {n}x{n} in {r['dtype']}; {share}")]


_PEAKS = {"cpu": "resident, the whole process"}


def _comparison(r: Results) -> list[tuple[str, str]]:
    rows = [
        ("against diffusers", f"{r['diffusers']}, torch {r['torch']}, timed in turn; same weights, v differs by {_small(r)}"),
        ("  svdjax", _seconds(r, "ours_seconds")),
        ("  official way", _seconds(r, "diffusers_seconds")),
        ("  lean", f"{_seconds(r, 'diffusers_lean_seconds')}: without the maps that the official code multiplies by zero"),
        ("  ratios", f"{r['ratio']:.2f} official to svdjax, {r['ratio_lean']:.2f} lean to svdjax (medians)"),
        ("  peak memory", f"{_giga(r['diffusers_peak_bytes'])} official, the weights both UNets share held once"),
    ]
    return rows


def _small(r: Results) -> str:
    return f"{r['relative_difference']:.1e}"


def _seconds(r: Results, name: str) -> str:
    return f"{r[name]:.3f} s median of {len(r[f'{name}_all'])} ({r[f'{name}_min']:.3f} to {r[f'{name}_max']:.3f})"


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3f} TFLOP"


def _giga(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
