"""The memory that a run may use, and JAX's share of a GPU."""

import os

import jax
import pytest

from svdjax.devices import budget
from svdjax.errors import InputError

VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine with JAX's plugin for NVIDIA GPUs; returns a function that sets the driver's output: their memory in MiB."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [group])
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "0")  # so that it is restored
        monkeypatch.delenv(name)

    def says(output: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
        program.chmod(0o755)

    return says


def test_share_of_a_gpu(gpu):
    gpu(r"81559\n24564\n")
    budget.take_share()
    share = float(os.environ[VARIABLE])
    assert (1 - share) * 24564 * 2**20 == pytest.approx(budget.RESERVED_BYTES, rel=0.01)
    budget.take_share(8.0)  # already set
    assert float(os.environ[VARIABLE]) == share


def test_share_for_a_budget(gpu):
    gpu("24564")
    budget.take_share(8.0)
    share = float(os.environ[VARIABLE])
    assert 8 * 2**30 < share * 0.963 * 24564 * 2**20 < 9.2 * 2**30  # also of CUDA's total, which is smaller than the driver's


def test_share_of_the_visible_gpu(gpu, monkeypatch):
    gpu("24564'; test \"$3\" = --id=1 || exit 1; : '")  # the driver fails if it is asked for other GPUs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    budget.take_share()
    share = float(os.environ[VARIABLE])
    assert (1 - share) * 24564 * 2**20 == pytest.approx(budget.RESERVED_BYTES, rel=0.01)


@pytest.mark.parametrize("output", ["", "[N/A]"])
def test_share_of_a_gpu_of_unknown_size(gpu, output):
    gpu(output)
    budget.take_share(8.0)
    assert float(os.environ[VARIABLE]) == budget.UNKNOWN_SIZE_SHARE


def test_no_driver(gpu):
    budget.take_share()
    assert float(os.environ[VARIABLE]) == budget.UNKNOWN_SIZE_SHARE


def test_a_users_own_share_is_kept(gpu, monkeypatch):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    budget.take_share()
    assert VARIABLE not in os.environ


def test_nothing_is_set_without_an_accelerator(gpu, monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    budget.take_share(1.0)
    assert VARIABLE not in os.environ


def test_budget_of_a_cpu():
    assert budget.budget_bytes(None) is None
    assert budget.budget_bytes(0.5) == 2**29
    with pytest.raises(InputError, match=r"--memory is 1e\+06, expected at most \d+(\.\d)? GiB, which .* has for JAX"):
        budget.budget_bytes(1e6, "--memory")


def test_budget_of_a_gpu(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10 * 2**30}

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert budget.budget_bytes(None) == int(0.98 * 10 * 2**30)
    assert budget.budget_bytes(8.0) == int(0.98 * 2**33)
    with pytest.raises(InputError, match="expected at most 10 GiB"):
        budget.budget_bytes(10.1)
