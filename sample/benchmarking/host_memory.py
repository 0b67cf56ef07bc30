"""The largest memory that this process has had, and a way to begin anew. Linux; elsewhere without the beginning anew."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def peak() -> int:
    """Peak resident memory in bytes, since `reset` where that works, else since the process began."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def reset() -> None:
    """Let `peak` count from what is resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: proc(5)
