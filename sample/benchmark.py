"""`python -m sample.benchmark`: seconds, operations and memory of a sampling step and of decoding, or of a training step."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import svdjax
from sample.benchmarking import flops, options, report, timing, train_benchmark, versus_diffusers, workloads
from sample.benchmarking.options import Options
from sample.benchmarking.timing import progress
from svdjax.models.initialize import abstract
from svdjax.models.unet import UNet
from svdjax.runtime import cli
from svdjax.runtime.atomic import new_file

MOST_DECODES = 3  # decoding takes as long as many steps


def run(options: Options) -> dict[str, Any]:
    """Everything that is measured, for JSON: seconds, bytes, operations, and what they were measured on."""
    results = describe(options)
    return results | (sampling(options) if options.training is None else train_benchmark.training(options, options.training))


def sampling(options: Options) -> dict[str, Any]:
    """A sampling step and decoding."""
    abstract = workloads.make(options.config, options.size, options.num_frames, options.dtype, allocate=False)
    progress("counting operations")
    results: dict[str, Any] = {
        "dual_step_flops": flops.count(workloads.dual_step, *abstract.dual_step),
        "decode_flops": flops.count(workloads.decode, *abstract.decode),
    }
    if options.compile_only:
        for name, fn in (("dual_step", workloads.dual_step), ("decode", workloads.decode)):
            progress(f"compiling {name}")
            results |= timing.plan(name, timing.compile_program(fn, getattr(abstract, name), warm=False))
        return results
    values = workloads.make(options.config, options.size, options.num_frames, options.dtype, allocate=True)
    progress("compiling dual_step twice: cold, then from a warm cache")
    program = timing.compile_program(workloads.dual_step, values.dual_step, warm=True)
    results |= timing.plan("dual_step", program)
    results |= timing.timed("dual_step", program, options.repeats, results["dual_step_flops"])
    results |= timing.against_matmul("dual_step", results["dual_step_flops_per_second"], options.dtype)
    progress("compiling decode")
    decode = timing.compile_program(workloads.decode, values.decode, warm=False)
    results |= timing.plan("decode", decode)
    results |= timing.timed("decode", decode, min(options.repeats, MOST_DECODES), results["decode_flops"])
    if options.against_diffusers:
        progress("timing diffusers in turn with svdjax")
        results["against_diffusers"] = versus_diffusers.compare(values, program, options.dtype, options.repeats)
    return results


def describe(options: Options) -> dict[str, Any]:
    """What is measured, on what, with what."""
    packages = ("jax", "jaxlib", "flax")
    width, height = options.size
    vae = options.config.vae
    unet = abstract(UNet, options.config.unet, options.dtype)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": timing.device_name(),
        "platform": jax.default_backend(),
        "versions": {
            "svdjax": svdjax.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
            "python": platform.python_version(),
        },
        "command": options.command_line(options),
        "model": options.model,
        "config": options.config.to_json(),
        "unet_parameters": sum(x.size for x in jax.tree.leaves(nnx.state(unet))),
        "width": width,
        "height": height,
        "num_frames": options.num_frames,
        "latent_shape": [options.num_frames, height // vae.down_factor, width // vae.down_factor, vae.latent_channels],
        "dtype": options.dtype,
        "compile_only": options.compile_only,
    }


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: the file is complete or as it was."""
    with new_file(path, f"--json {path}") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n")


def command(argv: list[str] | None) -> None:
    given, json_path = options.check(argv)
    results = run(given)
    print(report.table(results))
    if json_path:
        write_json(json_path, results)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
