"""Peak memory of this process. Resetting the peak works only on Linux."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def peak() -> int:
    """Peak resident memory in bytes since `reset`, or since the process started where `reset` doesn't work."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def reset() -> None:
    """Restart the peak from the currently resident memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: proc(5)
