"""`sample.benchmark --against diffusers`: PyTorch or JAX runs out of memory."""

from __future__ import annotations

import subprocess
from unittest import mock

import jax
import numpy as np
import pytest
import torch

from sample.benchmarking import versus_diffusers
from svdjax.errors import InputError


def own_process(returncode, stderr):
    done = subprocess.CompletedProcess([], returncode, "", stderr)
    with mock.patch("subprocess.run", return_value=done):
        versus_diffusers.peak_in_own_process("some.module", {})


OWN_OUTPUT = f"""Traceback (most recent call last):
  {"x" * 99}
RuntimeError: not enough memory: you tried to allocate 9 bytes.
Advice."""
FAILING = {
    "PyTorch on a CPU": lambda: torch.empty(2**60, dtype=torch.uint8),
    "NumPy": lambda: np.empty(2**60, np.uint8),
    "its own process": lambda: own_process(1, OWN_OUTPUT),
    "its own process, ended by the kernel": lambda: own_process(-9, ""),
}


def gpu_runs_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the documentation.")


def jax_runs_out():
    raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory")


def jax_allocates():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


REASONS = {
    FAILING["PyTorch on a CPU"]: "PyTorch's step doesn't fit in memory ([enforce fail ",
    FAILING["its own process"]: "PyTorch's step doesn't fit in memory (measuring PyTorch's memory failed: RuntimeError: not ",
    FAILING["its own process, ended by the kernel"]: "PyTorch's step doesn't fit in memory: ",
    gpu_runs_out: "PyTorch's step doesn't fit in memory (CUDA out of memory. Tried to allocate 20.00 GiB.): ",
    jax_runs_out: "svdjax's step, beside PyTorch's, doesn't fit in memory (INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: ",
    jax_allocates: "svdjax's step, beside PyTorch's, doesn't fit in memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 ",
}


@pytest.mark.parametrize("step", [*FAILING.values(), gpu_runs_out, jax_runs_out, jax_allocates])
def test_one_line(step):
    """Whose memory error it is, and how much it asked for."""
    with pytest.raises(InputError) as error, versus_diffusers.out_of_memory_in_one_line():
        step()
    text = str(error.value)
    assert text.startswith("--against diffusers: " + REASONS.get(step, "PyTorch's step doesn't fit in memory ("))
    assert text.endswith(": try a smaller --size or --batch-size, fewer --num-frames, or --dtype bfloat16")
    assert "\n" not in text


def test_other_errors_stay():
    with (
        pytest.raises(RuntimeError, match="measuring PyTorch's memory failed: exit status 1: boom"),
        versus_diffusers.out_of_memory_in_one_line(),
    ):
        own_process(1, "boom")
