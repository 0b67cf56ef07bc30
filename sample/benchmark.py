"""`python -m sample.benchmark`: seconds, operations and memory of a sampling step and of decoding, on the device at hand."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import svdjax
from sample import against_diffusers, host_memory, measure, report, workload
from svdjax import checkpoint, cli, fit, flops
from svdjax.config import SVDConfig
from svdjax.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
MOST_DECODES = 3  # decoding takes as long as many steps


@dataclass(frozen=True)
class Options:
    """A checked command line.

    Attributes:
        config: shapes of the model.
        model: where the configuration is from: the name of a preset, or a folder.
        size: (width, height) of the clip in pixels.
        num_frames: of the clip.
        dtype: of weights and computation.
        compile_only: neither allocate nor run anything.
        against_diffusers: also time PyTorch.
        repeats: timings of a step; the median counts.
    """

    config: SVDConfig
    model: str
    size: tuple[int, int]
    num_frames: int
    dtype: str
    compile_only: bool = False
    against_diffusers: bool = False
    repeats: int = 5


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m sample.benchmark",
        description="Time one sampling step of both directions under guidance, and decoding, with random weights.",
    )
    p.add_argument(
        "--preset", choices=workload.PRESETS, help="shapes of the model (svd-xt on a GPU and for --compile-only, else small)"
    )
    p.add_argument("--model", type=Path, metavar="DIR", help="take the shapes of a converted checkpoint instead")
    p.add_argument("--size", metavar="WxH", help="size of the clip (the model's)")
    p.add_argument("--num-frames", type=int, metavar="N", help="frames of the clip (the model's)")
    p.add_argument("--dtype", choices=DTYPES, help="compute dtype (bfloat16; float32 to run without a GPU)")
    p.add_argument("--compile-only", action="store_true", help="count operations and scratch memory; allocate and run nothing")
    p.add_argument("--against", choices=("diffusers",), help="also time the official way in PyTorch (needs svdjax[test])")
    p.add_argument("--repeats", type=int, default=Options.repeats, metavar="N", help="timings of a step (%(default)s)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all numbers; an old FILE is replaced")
    return p


def check(argv: list[str] | None) -> tuple[Options, Path | None]:
    """Parse and check the command line: the options, and where the numbers go."""
    args = parser().parse_args(argv)
    if args.model and args.preset:
        raise InputError("--model and --preset both give the shapes of the model: expected one of them")
    if args.against and args.compile_only:
        raise InputError("--against diffusers runs a step, --compile-only runs nothing: expected one of them")
    if args.repeats < 1:
        raise InputError(f"--repeats is {args.repeats}, expected at least 1")
    if args.json:
        check_json_path(args.json)
    if args.against:
        # PyTorch needs room beside JAX, which otherwise takes most of a GPU when it starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        against_diffusers.require()
    gpu = jax.default_backend() == "gpu"
    preset = args.preset or ("svd-xt" if gpu or args.compile_only else "small")
    config = checkpoint.read_info(args.model).config if args.model else workload.PRESETS[preset]
    size = fit.parse_size(args.size) if args.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    num_frames = config.unet.num_frames if args.num_frames is None else args.num_frames
    if num_frames < 2:
        raise InputError(f"--num-frames is {num_frames}, expected at least 2")
    options = Options(
        config=config,
        model=str(args.model or preset),
        size=size,
        num_frames=num_frames,
        dtype=args.dtype or ("bfloat16" if gpu or args.compile_only else "float32"),
        compile_only=args.compile_only,
        against_diffusers=args.against is not None,
        repeats=args.repeats,
    )
    return options, args.json


def check_json_path(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"--json {path}: is a folder, expected a file")
    if not path.parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--json {path}: can't write in {path.parent}")


def run(options: Options) -> dict[str, Any]:
    """Everything that is measured, for JSON: seconds, bytes, operations, and what they were measured on."""
    abstract = workload.make(options.config, options.size, options.num_frames, options.dtype, allocate=False)
    results = describe(options, abstract)
    progress("counting operations")
    results["dual_step_flops"] = flops.count(workload.dual_step, *abstract.dual_step)
    results["decode_flops"] = flops.count(workload.decode, *abstract.decode)
    if options.compile_only:
        for name, fn in (("dual_step", workload.dual_step), ("decode", workload.decode)):
            progress(f"compiling {name}")
            results |= plan(name, measure.compile_program(fn, getattr(abstract, name), warm=False))
        return results
    values = workload.make(options.config, options.size, options.num_frames, options.dtype, allocate=True)
    progress("compiling dual_step twice: cold, then from a warm cache")
    program = measure.compile_program(workload.dual_step, values.dual_step, warm=True)
    results |= plan("dual_step", program) | {"dual_step_compile_seconds_warm": program.warm_compile_seconds}
    results |= timed("dual_step", program, options.repeats, results["dual_step_flops"])
    progress("timing a large matrix product")
    results["matmul_size"], results["matmul_flops_per_second"] = measure.matmul_limit(options.dtype)
    results["dual_step_share_of_matmul"] = results["dual_step_flops_per_second"] / results["matmul_flops_per_second"]
    progress("compiling decode")
    decode = measure.compile_program(workload.decode, values.decode, warm=False)
    results |= plan("decode", decode)
    results |= timed("decode", decode, min(options.repeats, MOST_DECODES), results["decode_flops"])
    if options.against_diffusers:
        progress("timing diffusers in turn with svdjax")
        results["against_diffusers"] = against_diffusers.compare(values, program, options.dtype, options.repeats)
    return results


def describe(options: Options, abstract: workload.Workload) -> dict[str, Any]:
    """What is measured, on what, with what."""
    packages = ("jax", "jaxlib", "flax")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": measure.device_name(),
        "platform": jax.default_backend(),
        "versions": {
            "svdjax": svdjax.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
            "python": platform.python_version(),
        },
        "command": command_line(options),
        "model": options.model,
        "config": options.config.to_json(),
        "unet_parameters": sum(x.size for x in jax.tree.leaves(nnx.state(abstract.dual_step[0]))),
        "width": options.size[0],
        "height": options.size[1],
        "num_frames": options.num_frames,
        "latent_shape": list(abstract.decode[1].shape[1:]),
        "dtype": options.dtype,
        "compile_only": options.compile_only,
    }


def command_line(options: Options) -> str:
    """The command that does the same again, every choice spelled out."""
    width, height = options.size
    is_preset = workload.PRESETS.get(options.model) == options.config
    arguments = [
        "--preset" if is_preset else "--model",
        options.model,
        "--size",
        f"{width}x{height}",
        "--num-frames",
        str(options.num_frames),
        "--dtype",
        options.dtype,
    ]
    if options.compile_only:
        arguments.append("--compile-only")
    else:
        arguments += ["--repeats", str(options.repeats)]
    if options.against_diffusers:
        arguments += ["--against", "diffusers"]
    return shlex.join(["python", "-m", "sample.benchmark", *arguments])


def plan(name: str, program: measure.Program) -> dict[str, Any]:
    """What compiling a program says."""
    return {
        f"{name}_trace_seconds": program.trace_seconds,
        f"{name}_compile_seconds": program.compile_seconds,
        f"{name}_scratch_bytes": program.scratch_bytes,
        f"{name}_argument_bytes": program.argument_bytes,
    }


def timed(name: str, program: measure.Program, repeats: int, operations: int) -> dict[str, Any]:
    """What running a program says."""
    progress(f"timing {name}")
    host_memory.reset()
    seconds = measure.interleaved({name: program.run}, repeats)[name]
    result = measure.summary(f"{name}_seconds", seconds)
    return result | {
        f"{name}_flops_per_second": operations / result[f"{name}_seconds"],
        f"{name}_peak_bytes": measure.peak_bytes(),
    }


def progress(message: str) -> None:
    print(f"{message} ...", file=sys.stderr, flush=True)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: the file is complete or as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        temporary.replace(path)
    except OSError as e:
        raise InputError(f"--json {path}: can't be written: {e.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def command(argv: list[str] | None) -> None:
    options, json_path = check(argv)
    results = run(options)
    print(report.table(results))
    if json_path:
        write_json(json_path, results)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
