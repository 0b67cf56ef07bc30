"""`sample.benchmark --against diffusers`: PyTorch runs out of memory."""

from __future__ import annotations

import subprocess
from unittest import mock

import numpy as np
import pytest
import torch

from sample.benchmarking import versus_diffusers
from svdjax.errors import InputError


def own_process(returncode, stderr):
    done = subprocess.CompletedProcess([], returncode, "", stderr)
    with mock.patch("subprocess.run", return_value=done):
        versus_diffusers.peak_in_own_process("some.module", {})


FAILING = {
    "PyTorch on a CPU": lambda: torch.empty(2**60, dtype=torch.uint8),
    "NumPy": lambda: np.empty(2**60, np.uint8),
    "its own process": lambda: own_process(
        1, "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    ),
    "its own process, ended by the kernel": lambda: own_process(-9, ""),
}


def gpu_runs_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("step", [*FAILING.values(), gpu_runs_out], ids=[*FAILING, "PyTorch on a GPU"])
def test_one_line(step):
    with (
        pytest.raises(
            InputError, match=r"^--against diffusers: PyTorch's step doesn't fit in memory: try a smaller --size"
        ) as error,
        versus_diffusers.out_of_memory_in_one_line(),
    ):
        step()
    assert "\n" not in str(error.value)


def test_other_errors_stay():
    with (
        pytest.raises(RuntimeError, match="measuring PyTorch's memory failed: boom"),
        versus_diffusers.out_of_memory_in_one_line(),
    ):
        own_process(1, "boom")
