"""Processes that measure clips: none outlives the command."""

from __future__ import annotations

import signal
import subprocess
import sys

import hosts

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
    assert hosts.ends(worker)
