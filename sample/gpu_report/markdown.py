"""The report as tables in Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from sample.gpu_report.results import Results

NOTHING = "-"  # not measured
Row = Sequence[str]


def render(results: Results) -> str:
    """All tables that have a row."""
    tables = (
        ("Times", ("", "svdjax", "official, PyTorch eager", "ratio", "official, compiled", "ratio"), _times(results)),
        ("Speed", ("", "operations per second", "of the matrix product"), _speeds(results)),
        ("Memory", ("", "planned by XLA", "real peak", "official, PyTorch"), _memory(results)),
        ("Compiling", ("", "tracing", "cold", "from the persistent cache"), _compiling(results)),
        ("Distance from PyTorch", ("", "float32, highest precision", "bfloat16"), _parity(results)),
        ("Kernels", ("", "XLA", "Pallas", "XLA to Pallas", "distance"), _kernels(results)),
        ("One clip", ("", "encoding and sampling", "decoding", "writing", "in total"), _clip(results)),
        ("Parts", ("", "status", "time", "notes"), _parts(results)),
    )
    blocks = [_heading(results)]
    blocks += [f"## {title}\n\n{_table(header, rows)}" for title, header, rows in tables if rows]
    return "\n\n".join(blocks)


def _heading(results: Results) -> str:
    setup = results.setup
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    memory = f", {setup['memory_bytes'] / 2**30:.1f} GiB for JAX" if setup["memory_bytes"] else ""
    lines = [
        "# Device report",
        f"- device: {setup['device']}{memory}",
        f"- date: {setup['date']}",
        f"- versions: {versions}",
        f"- model: {setup['model']} with random weights, {setup['dtype']}",
        f"- clip: {setup['num_frames']} frames of {setup['width']}x{setup['height']}",
    ]
    if setup["platform"] != "gpu":
        lines.append(f"- **no GPU**: all numbers are from this {setup['platform'].upper()}, and say nothing about a GPU")
    return "\n".join([lines[0], "", *lines[1:]])


def _times(results: Results) -> list[Row]:
    rows = []
    step, compiled = results.of("dual_step"), results.of("torch_compile")
    against = step.get("against_diffusers", {})
    ours, eager = against.get("ours_seconds", step.get("dual_step_seconds")), against.get("diffusers_seconds")
    if ours is not None:
        # the eager step, timed with both, joins the two parts
        factor = compiled.get("compiled_to_eager")
        through = eager * factor if eager and factor else None
        rows.append(("sampling step", _s(ours), _s(eager), _ratio(eager, ours), _s(through), _ratio(through, ours)))
    decode = results.of("decode")
    against = decode.get("against_diffusers", {})
    for dtype in ("float32", "bfloat16", "float16"):
        official = against.get(f"diffusers_{dtype}_seconds")
        if official is not None:
            label = f"decoding, official in {dtype}, {against['chunk']} frames at a time"
            ours = against["ours_seconds"]
            rows.append((label, _s(ours), _s(official), _ratio(official, ours), NOTHING, NOTHING))
    if not against and "decode_seconds" in decode:
        rows.append(("decoding", _s(decode["decode_seconds"]), NOTHING, NOTHING, NOTHING, NOTHING))
    train = results.of("train_step")
    for values in (train, train.get("smaller", {})):
        against = values.get("against_diffusers", {})
        ours, official = against.get("ours_seconds", values.get("train_step_seconds")), against.get("diffusers_seconds")
        if ours is not None:
            label = f"training step, {values['num_frames']} frames of {values['width']}x{values['height']}"
            rows.append((label, _s(ours), _s(official), _ratio(official, ours), NOTHING, NOTHING))
    return rows


_PROGRAMS = (("sampling step", "dual_step"), ("decoding", "decode"), ("training step", "train_step"))


def _speeds(results: Results) -> list[Row]:
    rows, dtype, key = [], results.setup["dtype"], "matmul_flops_per_second"
    # both steps measure the same product; one of them may be missing
    measured = next((found for found in map(results.of, ("dual_step", "train_step")) if key in found), {})
    limit = measured.get(key)
    if limit is not None:
        size = measured["matmul_size"]
        rows.append((f"matrix product, {size}x{size}, {dtype}", _tera(limit), "100 %"))
    for label, name in _PROGRAMS:
        values = results.of(name)
        speed, own = values.get(f"{name}_flops_per_second"), values.get(f"{name}_dtype", dtype)
        if speed is not None:
            share = f"{speed / limit:.0%}".replace("%", " %") if limit and own == dtype else NOTHING
            rows.append((label if own == dtype else f"{label}, {own}", _tera(speed), share))
    return rows


def _memory(results: Results) -> list[Row]:
    rows = []
    for label, name in _PROGRAMS:
        values = results.of(name)
        planned, peak, before = (values.get(f"{name}_{key}_bytes") for key in ("total", "peak", "peak_before"))
        if planned is None:
            continue
        official = values.get("against_diffusers", {}).get("diffusers_peak_bytes")
        rows.append((label, _gb(planned), _real(results, peak, before), _gb(official)))
    for name in ("clip", "clip_12gb", "clip_8gb"):
        values = results.of(name)
        if (peak := values.get("clip_peak_bytes")) is not None:
            limit = values.get("clip_limit_bytes")
            label = "one clip" if limit is None else f"one clip, JAX limited to {_gb(limit)}"
            real = _real(results, peak, values.get("clip_peak_before_bytes"))
            rows.append((label, _gb(values.get("clip_total_bytes")), real, NOTHING))
    return rows


def _real(results: Results, peak: float | None, before: float | None) -> str:
    """A peak, and what else it may be: a device's never falls, and planning or choosing kernels may have set it."""
    text = _gb(peak)
    if results.setup["platform"] == "cpu" and peak:
        text += ", the whole process"
    elif before and peak and before >= peak:
        text += ", reached before the program ran"
    return text


def _compiling(results: Results) -> list[Row]:
    rows = []
    for label, name in _PROGRAMS:
        values = results.of(name)
        times = [values.get(f"{name}_{key}_seconds") for key in ("trace", "compile", "compile")]
        times[2] = values.get(f"{name}_compile_seconds_warm")
        if times[1] is not None:
            rows.append((label, *(_s(x, 1) for x in times)))
    seconds = results.of("torch_compile").get("compile_seconds")
    if seconds is not None:
        rows.append(("official step, torch.compile", NOTHING, _s(seconds, 1), NOTHING))
    return rows


def _parity(results: Results) -> list[Row]:
    parity = results.of("parity")
    labels = {"image_embeds": "image encoder", "image_latents": "VAE encoder", "v": "both directions' v", "frames": "decoder"}
    narrow, wide = parity.get("bfloat16", {}), parity.get("float32_highest", {})
    rows: list[Row] = [(label, _e(wide.get(key)), _e(narrow.get(key))) for key, label in labels.items() if wide]
    train = results.of("train_step")
    steps = {"sampling step": results.of("dual_step"), "gradients of the training step": train | train.get("smaller", {})}
    for label, values in steps.items():
        if step := values.get("against_diffusers"):
            distance, dtype = _e(step["relative_difference"]), results.setup["dtype"]
            rows.append((f"{label} of the benchmark, both in the same dtype", *_in_column(dtype, distance)))
    return rows


def _in_column(dtype: str, text: str) -> tuple[str, str]:
    return (NOTHING, text) if dtype == "bfloat16" else (f"{text} ({dtype})", NOTHING)


def _kernels(results: Results) -> list[Row]:
    rows = []
    for values in results.of("kernels").get("layers", {}).values():
        label = f"feed-forward, {values['tokens']:,} tokens of {values['channels']}"
        times = [f"{1e3 * values[f'{name}_seconds']:.3f} ms" for name in ("xla", "pallas")]
        rows.append((label, *times, f"{values['xla_to_pallas']:.2f}", _e(values["relative_difference"])))
    step = results.of("dual_step_pallas")
    if "xla_to_pallas" in step:
        times = [_s(step[f"{name}_seconds"]) for name in ("xla", "pallas")]
        rows.append(("sampling step", *times, f"{step['xla_to_pallas']:.2f}", _e(step["relative_difference"])))
    return rows


def _clip(results: Results) -> list[Row]:
    clip = results.of("clip")
    keys = ("_encode_and_sample_seconds", "_decode_seconds", "_write_seconds", "_seconds")
    labels = {"clip_first": "first clip, with compiling", "clip": "second clip"}
    times = {label: [clip.get(name + key) for key in keys] for name, label in labels.items()}
    return [(label, *(_s(x, 2) for x in row)) for label, row in times.items() if any(row)]


def _parts(results: Results) -> list[Row]:
    return [
        (part.title, part.status, NOTHING if part.seconds is None else f"{part.seconds:.0f} s", "; ".join(part.notes))
        for part in results.parts.values()
    ]


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _s(seconds: float | None, digits: int = 3) -> str:
    return NOTHING if seconds is None else f"{seconds:.{digits}f} s"


def _ratio(official: float | None, ours: float | None) -> str:
    return f"{official / ours:.2f}" if official and ours else NOTHING


def _tera(rate: float) -> str:
    return f"{rate / 1e12:,.3g} TFLOP/s" if rate < 1e14 else f"{rate / 1e12:,.0f} TFLOP/s"


def _gb(size: float | None) -> str:
    return NOTHING if size is None else f"{size / 1e9:,.2f} GB"


def _e(distance: float | None) -> str:
    return NOTHING if distance is None else f"{distance:.1e}"
