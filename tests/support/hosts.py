"""Slurm environments and free addresses for tests of several processes."""

from __future__ import annotations

import socket

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
