"""Processes that measure clips: none outlives the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from sample.quality.measured import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(100)
"""


def test_a_worker_ends_with_a_killed_command(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    with subprocess.Popen([sys.executable, str(tmp_path / "command.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker still runs")


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for the system to remove it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
