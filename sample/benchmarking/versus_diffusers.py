"""Compare our sampling step with PyTorch's: same weights, inputs, shapes, dtype and device, timed alternately.

PyTorch and diffusers (the `test` extra) are imported only when needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sample.benchmarking import timing
from sample.benchmarking.results import Comparison, Timings
from sample.benchmarking.workloads import Workload
from sample.gpu_report import failures
from svdjax.devices import xla_options
from svdjax.diffusers_layout.name_table import torch_row
from svdjax.errors import InputError, one_line
from svdjax.models.svd import leaves

if TYPE_CHECKING:
    import torch

    from sample.benchmarking.torch_dual_step import StepInputs

# Largest relative L2 distance of two results. In float32 on a CPU only rounding differs (about 1e-6 per layer). GPUs use TF32
# for JAX's float32 by default, and 16-bit values have 8 to 11 significant bits. A different model gives distances near 1.
_AGREEMENT = {("cpu", "float32"): 1e-4}
_AGREEMENT_OTHERWISE = 0.1


@contextlib.contextmanager
def out_of_memory_in_one_line() -> Iterator[None]:
    """Raise `InputError` if a step runs out of memory within the block or the decorated function, with the library's reason.

    JAX's errors are those of our step, all others those of PyTorch, its own process, or NumPy, which makes its weights.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not failures.is_out_of_memory(e):
            raise
        whose = "svdjax's step, beside PyTorch's," if isinstance(e, jax.errors.JaxRuntimeError) else "PyTorch's step"
        reason = one_line(str(e).strip().partition("\n")[0], failures.LONGEST)  # how much it asked for
        advice = "try a smaller --size or --batch-size, fewer --num-frames, or --dtype bfloat16"
        raise InputError(
            f"--against diffusers: {whose} doesn't fit in memory{f' ({reason})' if reason else ''}: {advice}"
        ) from None


def require_diffusers() -> None:
    """Check early that a comparison is possible.

    Raises:
        InputError: PyTorch or diffusers isn't installed, or PyTorch can't use the device that JAX uses.
    """
    lacking = failures.not_installed(failures.PYTORCH)
    if lacking is not None:
        raise InputError(f"--against diffusers: {lacking}")
    backend = jax.default_backend()
    if backend == "cpu":
        return
    import torch

    if backend != "gpu" or not torch.cuda.is_available():
        raise InputError(
            f"--against diffusers: JAX uses a {backend}, but the installed PyTorch {torch.__version__} can't use it"
        )


@out_of_memory_in_one_line()
def compare(workload: Workload, program: timing.Program, dtype: str, repeats: int) -> Comparison:
    """Check that the two steps agree, then time them alternately.

    Args:
        workload: made with `allocate`.
        program: `workloads.dual_step`, compiled for this workload.
        dtype: dtype of both steps.
        repeats: timed runs of each.

    Raises:
        RuntimeError: the two predictions differ by too much, see `check_agreement`.
    """
    import torch

    from sample.benchmarking.torch_dual_step import OfficialStep

    device, threads = prepare_torch()
    unet, backward, _ = workload.dual_step
    config = dataclasses.asdict(unet.config)
    step = OfficialStep(config, to_torch(leaves(unet), dtype, device), to_torch(backward.params, dtype, device))
    inputs = torch_inputs(workload, dtype, device)

    ours, theirs = np.asarray(program.run()[1], np.float64), _channels_last(step(inputs)[1])
    difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    check_agreement("v-predictions", difference, dtype)

    def run_official(lean: bool) -> None:
        step.set_lean(lean)
        step(inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run_official(lean=False)
        peak = torch.cuda.max_memory_allocated()
    else:
        _, f, c, h, w = inputs.latents.shape
        request = {"config": config, "latent_shape": (f, h, w, c), "dtype": dtype, "threads": threads}
        peak = peak_in_own_process("sample.benchmarking.torch_dual_step", request)
    return Comparison(
        relative_difference=difference,
        relative_difference_of_loss=None,
        threads=threads if device == "cpu" else None,
        peak_bytes=peak,
        diffusers=version("diffusers"),
        torch=version("torch"),
        **time_alternately(program.run, run_official, repeats),
    )


def prepare_torch() -> tuple[str, int]:
    """Set PyTorch's threads and precision as in JAX. Returns PyTorch's name of the device, and the number of threads."""
    import torch

    gpu, threads = jax.default_backend() == "gpu", xla_options.cores()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if gpu else "highest")  # JAX's default on GPUs
    return "cuda" if gpu else "cpu", threads


def check_agreement(what: str, difference: float, dtype: str) -> None:
    """Raise `RuntimeError` if a relative L2 difference is too large: different computations must not be compared.

    In 16 bits it may be rounding that a deep model amplifies. Then both are timed, and a line on standard error says so.
    """
    allowed = _AGREEMENT.get((jax.default_backend(), dtype), _AGREEMENT_OTHERWISE)
    if difference <= allowed:
        return
    text = f"{what} of svdjax and diffusers differ by {difference:.1e}, expected at most {allowed:.0e}"
    if dtype == "float32" or not math.isfinite(difference):
        raise RuntimeError(text)
    print(f"note: {text} in {dtype}", file=sys.stderr, flush=True)


def time_alternately(ours: Callable[[], Any], official: Callable[[bool], Any], repeats: int) -> dict[str, Timings]:
    """Time our step, the official step and its lean variant, `official(True)`; return the timings of a `Comparison`."""
    return timing.interleaved({"ours": ours, "official": lambda: official(False), "lean": lambda: official(True)}, repeats)


def to_torch(tensors: Mapping[str, Any], dtype: str, device: str) -> dict[str, torch.Tensor]:
    """Convert tensors of the UNet by our names to PyTorch tensors by PyTorch's names, in PyTorch's layout."""
    import torch

    out = {}
    for name, value in tensors.items():
        row = torch_row(name, value.shape)
        array = row.layout.to_torch(np.asarray(value, np.float32))
        out[row.torch_name] = torch.from_numpy(np.array(array, order="C")).to(device, getattr(torch, dtype))
    return out


def torch_inputs(workload: Workload, dtype: str, device: str) -> StepInputs:
    """The inputs of the step as PyTorch tensors with PyTorch's axes."""
    import torch

    from sample.benchmarking.torch_dual_step import StepInputs

    x = workload.dual_step[2]
    assert x.guide.scale is not None  # a workload has guidance

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
    """Peak resident memory of PyTorch's step, measured in a process without JAX's arrays.

    Args:
        module: the module to run as a program.
        request: its input, sent as JSON.
    """
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
    if done.returncode == -signal.SIGKILL:  # by the kernel, which ends the process that needs the most memory
        raise MemoryError
    if done.returncode:
        raise RuntimeError(f"measuring PyTorch's memory failed: {failures.of_command(done.returncode, done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
