"""Our sampling step beside PyTorch's: the same weights, inputs, shapes, dtype and device, timed in turn.

PyTorch and diffusers (the `test` extra) are imported when `compare` is called.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sample.benchmarking import timing
from sample.benchmarking.workloads import Workload
from svdjax.diffusers_layout.name_table import torch_row
from svdjax.errors import InputError
from svdjax.models.svd import leaves
from svdjax.runtime import xla_options

if TYPE_CHECKING:
    import torch

    from sample.benchmarking.torch_dual_step import StepInputs

# Relative L2 distance between the two v-predictions. In float32 on a CPU only rounding differs (about 1e-6 a layer); GPUs use
# TF32 for float32 by JAX's default, and 16 bits keep 8 to 11 bits of every value. Another model is at a distance near 1.
_AGREEMENT = {("cpu", "float32"): 1e-4}
_AGREEMENT_OTHERWISE = 0.1


def require() -> None:
    """Refuse early what a comparison lacks.

    Raises:
        InputError: PyTorch or diffusers isn't installed, or PyTorch can't use the device that JAX uses.
    """
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--against diffusers: {' and '.join(missing)} not installed: pip install 'svdjax[test]'")
    backend = jax.default_backend()
    if backend == "cpu":
        return
    import torch

    if backend != "gpu" or not torch.cuda.is_available():
        raise InputError(f"--against diffusers: JAX uses a {backend}, which the installed PyTorch {torch.__version__} can't")


def compare(workload: Workload, program: timing.Program, dtype: str, repeats: int) -> dict[str, Any]:
    """Check that the two steps agree, then time them in turn.

    Args:
        workload: with values.
        program: `workload.dual_step`, compiled.
        dtype: of both.
        repeats: timings of each.

    Returns:
        For JSON: `relative_difference` of the v-predictions; `ours`, `diffusers` and `diffusers_lean` (without the maps
        that the official code computes and multiplies by zero) with seconds; ratios of medians, theirs to ours;
        `diffusers_peak_bytes`; versions, threads.

    Raises:
        RuntimeError: the two predictions differ by more than rounding.
    """
    import diffusers
    import torch

    from sample.benchmarking.torch_dual_step import OfficialStep

    device, threads = prepare()
    unet, backward, _ = workload.dual_step
    config = dataclasses.asdict(unet.config)
    step = OfficialStep(config, to_torch(leaves(unet), dtype, device), to_torch(backward.params, dtype, device))
    inputs = torch_inputs(workload, dtype, device)

    ours, theirs = np.asarray(program.run()[1], np.float64), _channels_last(step(inputs)[1])
    difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    check_agreement("v-predictions", difference, dtype)

    def run_torch(lean: bool) -> None:
        step.set_lean(lean)
        step(inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run_torch(lean=False)
        peak = torch.cuda.max_memory_allocated()
    else:
        _, f, c, h, w = inputs.latents.shape
        request = {"config": config, "latent_shape": (f, h, w, c), "dtype": dtype, "threads": threads}
        peak = peak_in_own_process("sample.benchmarking.torch_dual_step", request)
    timed = in_turn(program.run, run_torch, repeats)
    return timed | {
        "relative_difference": difference,
        "threads": threads if device == "cpu" else None,
        "diffusers_peak_bytes": peak,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
    }


def prepare() -> tuple[str, int]:
    """Set PyTorch up as JAX is: the device's name in PyTorch, and the number of threads."""
    import torch

    gpu, threads = jax.default_backend() == "gpu", xla_options.cores()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if gpu else "highest")  # JAX's default on GPUs
    return "cuda" if gpu else "cpu", threads


def check_agreement(what: str, difference: float, dtype: str) -> None:
    """Refuse to time what isn't the same: `difference` is a relative one, by the L2 norm."""
    allowed = _AGREEMENT.get((jax.default_backend(), dtype), _AGREEMENT_OTHERWISE)
    if not difference <= allowed:
        raise RuntimeError(f"{what} of svdjax and diffusers differ by {difference:.1e}, expected at most {allowed:.0e}")


def in_turn(ours: Callable[[], Any], theirs: Callable[[bool], Any], repeats: int) -> dict[str, Any]:
    """Seconds of both and of the lean variant of theirs, `theirs(True)`, and the ratios of medians, theirs to ours."""
    seconds = timing.interleaved(
        {"ours": ours, "diffusers": lambda: theirs(False), "diffusers_lean": lambda: theirs(True)}, repeats
    )
    result: dict[str, Any] = {}
    for name, values in seconds.items():
        result |= timing.summary(f"{name}_seconds", values)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return result | {
        "ratio": medians["diffusers"] / medians["ours"],
        "ratio_lean": medians["diffusers_lean"] / medians["ours"],
    }


def to_torch(tensors: dict[str, Any], dtype: str, device: str) -> dict[str, torch.Tensor]:
    """Tensors of the UNet by our names -> PyTorch's, by its names and in its layout."""
    import torch

    out = {}
    for name, value in tensors.items():
        row = torch_row(name, value.shape)
        array = row.layout.to_torch(np.asarray(value, np.float32))
        out[row.torch_name] = torch.from_numpy(np.array(array, order="C")).to(device, getattr(torch, dtype))
    return out


def torch_inputs(workload: Workload, dtype: str, device: str) -> StepInputs:
    """The inputs of the step in PyTorch's axes."""
    import torch

    from sample.benchmarking.torch_dual_step import StepInputs

    x = workload.dual_step[2]

    def tensor(value: jax.Array) -> torch.Tensor:
        return torch.from_numpy(np.array(value, np.float32)).to(device)

    return StepInputs(
        latents=tensor(jnp.moveaxis(x.latents, -1, -3)),
        image_latents=tensor(jnp.moveaxis(x.conditioning.image_latents, -1, -3)),
        image_embeds=tensor(x.conditioning.image_embeds).to(getattr(torch, dtype)),
        added_time_ids=tensor(x.conditioning.added_time_ids),
        scale=tensor(x.guide.scale),
        weight=tensor(x.guide.weight),
        sigma=float(x.sigma),
        sigma_next=float(x.sigma_next),
    )


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.double().cpu().numpy(), -3, -1)


def peak_in_own_process(module: str, request: dict[str, Any]) -> int:
    """Peak resident memory of PyTorch's step, by a program of this package, in a process that never had JAX's arrays."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"measuring PyTorch's memory failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
