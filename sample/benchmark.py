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
from sample import against_diffusers, benchmark_options, measure, report, train_benchmark, workload
from sample.benchmark_options import Options
from sample.measure import progress
from svdjax import cli, flops
from svdjax.atomic import new_file
from svdjax.initialize import abstract
from svdjax.unet import UNet

MOST_DECODES = 3  # decoding takes as long as many steps


def run(options: Options) -> dict[str, Any]:
    """Everything that is measured, for JSON: seconds, bytes, operations, and what they were measured on."""
    results = describe(options)
    return results | (sampling(options) if options.training is None else train_benchmark.training(options, options.training))


def sampling(options: Options) -> dict[str, Any]:
    """A sampling step and decoding."""
    abstract = workload.make(options.config, options.size, options.num_frames, options.dtype, allocate=False)
    progress("counting operations")
    results: dict[str, Any] = {
        "dual_step_flops": flops.count(workload.dual_step, *abstract.dual_step),
        "decode_flops": flops.count(workload.decode, *abstract.decode),
    }
    if options.compile_only:
        for name, fn in (("dual_step", workload.dual_step), ("decode", workload.decode)):
            progress(f"compiling {name}")
            results |= measure.plan(name, measure.compile_program(fn, getattr(abstract, name), warm=False))
        return results
    values = workload.make(options.config, options.size, options.num_frames, options.dtype, allocate=True)
    progress("compiling dual_step twice: cold, then from a warm cache")
    program = measure.compile_program(workload.dual_step, values.dual_step, warm=True)
    results |= measure.plan("dual_step", program)
    results |= measure.timed("dual_step", program, options.repeats, results["dual_step_flops"])
    results |= measure.against_matmul("dual_step", results["dual_step_flops_per_second"], options.dtype)
    progress("compiling decode")
    decode = measure.compile_program(workload.decode, values.decode, warm=False)
    results |= measure.plan("decode", decode)
    results |= measure.timed("decode", decode, min(options.repeats, MOST_DECODES), results["decode_flops"])
    if options.against_diffusers:
        progress("timing diffusers in turn with svdjax")
        results["against_diffusers"] = against_diffusers.compare(values, program, options.dtype, options.repeats)
    return results


def describe(options: Options) -> dict[str, Any]:
    """What is measured, on what, with what."""
    packages = ("jax", "jaxlib", "flax")
    width, height = options.size
    vae = options.config.vae
    unet = abstract(UNet, options.config.unet, options.dtype)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": measure.device_name(),
        "platform": jax.default_backend(),
        "versions": {
            "svdjax": svdjax.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
            "python": platform.python_version(),
        },
        "command": benchmark_options.command_line(options),
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
    options, json_path = benchmark_options.check(argv)
    results = run(options)
    print(report.table(results))
    if json_path:
        write_json(json_path, results)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
