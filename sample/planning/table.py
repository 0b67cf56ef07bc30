"""Text report of programs compiled for a GPU."""

from __future__ import annotations

from sample.planning import collectives
from sample.planning.plan import Plan, PlannedProgram

_COLUMNS = ("scratch", "arguments", "results", "total", "moved")


def rates(plan: Plan) -> list[tuple[str, str]]:
    """What the numbers below mean: the card, its memory, and its rates."""
    card = plan.card
    return [
        ("compiled for", f"{card.title}, which was not used: nothing was run and no time measured"),
        ("memory", f"{card.memory_bytes / 2**30:.1f} GiB, {card.usable_bytes / 2**30:.1f} GiB of it for JAX by default"),
        (
            "rates",
            f"{card.flops_per_second / 1e12:.1f} TFLOP/s, the vendor's for dense bfloat16 products with float32 sums; "
            f"{card.bandwidth / 1e12:.3f} TB/s of memory",
        ),
        ("", "GB are 1e9 bytes; scratch excludes cuDNN's workspaces; moved is the least that the kernels read and write"),
        ("", "floors, the lower bounds of time, are operations and bytes moved divided by these rates"),
    ]


def table(plan: Plan) -> str:
    """The programs, their kernels by kind, and the phases of a run."""
    devices = plan.programs[0].devices
    per_device = f", on each of {devices} devices" if devices > 1 else ""
    head = "".join(f"{name:>11}" for name in _COLUMNS)
    lines = [f"{'GB' + per_device:<28}{head}{'TFLOP':>10}{'floors: operations':>22}{'bytes':>11}"]
    lines += [_row(program) for program in plan.programs]
    for program in plan.programs:
        lines += ["", f"{program.name}: kernels by kind{per_device}", *_kernels(program)]
        if program.traffic is not None:
            lines += ["", f"{program.name}: communication", collectives.table(program.traffic)]
            floor = f"floor {program.sent_seconds:.4f} s at {program.card.link / 1e9:g} GB/s in one direction, within a host"
            lines.append(f"{'':<20}{floor}")
    return "\n".join([*lines, *_phases(plan), *_costs(plan)])


def _row(program: PlannedProgram) -> str:
    memory = program.memory
    sizes = (memory.scratch_bytes, memory.argument_bytes, memory.result_bytes, program.total_bytes, program.hbm_bytes)
    numbers = "".join(f"{size / 1e9:>11,.2f}" for size in sizes)
    floors = f"{program.flops_seconds:>20.3f} s{program.hbm_seconds:>9.3f} s"
    return f"{program.name:<28}{numbers}{program.flops / 1e12:>10,.2f}{floors}"


def _kernels(program: PlannedProgram) -> list[str]:
    whole = max(1, program.hbm_bytes)
    rows = [f"  {k.kind:<26}{k.count:>7}{k.bytes / 1e9:>11,.2f} GB{k.bytes / whole:>8.1%}" for k in program.kernels]
    return [*rows, f"  {'all':<26}{sum(k.count for k in program.kernels):>7}{program.hbm_bytes / 1e9:>11,.2f} GB"]


def _phases(plan: Plan) -> list[str]:
    if not plan.phases:
        return []
    lines = ["", *plan.description, f"{'phase, GB':<28}{'resident':>11}{'scratch':>11}{'peak':>11}  program"]
    for phase in plan.phases:
        sizes = (phase.resident_bytes, phase.scratch_bytes, phase.peak_bytes)
        lines.append(f"{phase.name:<28}" + "".join(f"{size / 1e9:>11,.2f}" for size in sizes) + f"  {phase.program}")
    return lines


def _costs(plan: Plan) -> list[str]:
    if not plan.costs:
        return []
    columns = ("steps", "clips in UNet", "TFLOP", "moved TB", "floor, sampling", "floor, clip")
    lines = ["", f"{'method':<44}" + "".join(f"{name:>17}" for name in columns)]
    for cost in plan.costs:
        numbers = f"{cost['steps']:>17}{cost['unet_clips']:>17}{cost['flops'] / 1e12:>17,.0f}{cost['hbm_bytes'] / 1e12:>17,.2f}"
        lines.append(f"{cost['name']:<44}{numbers}{cost['floor_seconds']:>15,.2f} s{cost['clip_floor_seconds']:>15,.2f} s")
    return lines
