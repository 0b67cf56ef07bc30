"""Slurm environments, free addresses and processes with simulated devices, for tests of several processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CPUS = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
# Variables of Slurm on the second of two nodes, one task on each.
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
# The last of eight tasks, four on each node.
EIGHT = SLURM | {
    "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "7",
    "SLURM_LOCALID": "3",
}


def free_address() -> str:
    """HOST:PORT of a port that nothing uses at the moment."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def start(
    folder: Path, words: Sequence[str], devices: int, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start Python in a new folder, with simulated devices; its output goes to files there."""
    folder.mkdir(parents=True)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        environment = os.environ | CPUS | {"JAX_NUM_CPU_DEVICES": str(devices)} | dict(variables or {})
        return subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=out, stderr=err)


def write_keyframes(folder: Path) -> list[str]:
    """Write three images of noise, 32x32; returns their paths."""
    rng = np.random.default_rng(0)
    files = [str(folder / f"{k}.png") for k in range(3)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    return files


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether a process that this one did not start ends within this time; afterwards it has ended in any case."""
    for _ in range(int(10 * seconds)):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")  # a zombie waits only for the system to remove it
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False
