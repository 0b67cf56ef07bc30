"""Run a part in its own process, read its messages, and end it at its limit."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from sample.gpu_report import failures
from sample.gpu_report.channel import Request
from sample.gpu_report.parts import Part

_ROOT = Path(__file__).parents[2]
_TICK = 0.5  # polling interval in seconds
# For the parts: JAX allocates GPU memory on demand, because PyTorch shares the GPU, up to most of the card. The user's own
# setting has priority.
_PREALLOCATE, _SHARE, _SECOND_NAME = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
)
_MEMORY = {_PREALLOCATE: "false", _SHARE: ".95"}

AT_LIMIT = "ended at its limit"
Message = Callable[[str, Any], None]


def environment(part: Part, request: Request, scratch: Path) -> dict[str, str]:
    """Environment of the parts.

    No compiled program is read from a cache, so that compile times are cold. The parts of a report share XLA's choices of GPU
    kernels, which take most of the time of compiling.

    Args:
        part: it may limit JAX's memory.
        request: with the memory that JAX may take without a limit.
        scratch: a temporary folder, removed after the report.
    """
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "PYTHONUNBUFFERED": "1",
    }
    if request.gpu:
        folder = scratch / "autotuning"
        folder.mkdir(exist_ok=True)
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_per_fusion_autotune_cache_dir={folder}"
        own["XLA_FLAGS"] = flags.strip()
    memory = {**_MEMORY, **{name: os.environ[name] for name in (*_MEMORY, _SECOND_NAME) if name in os.environ}}
    share = memory.pop(_SECOND_NAME, None)  # JAX refuses two names of one setting
    memory[_SHARE] = share or memory[_SHARE]
    if part.memory_gib is not None and request.memory_bytes:
        device = request.memory_bytes / float(memory[_SHARE])
        memory |= {_SHARE: f"{part.memory_gib * 2**30 / device:.6f}", _PREALLOCATE: "true"}
    others = {name: value for name, value in os.environ.items() if name != _SECOND_NAME}
    return {**others, **memory, **own}


def run(part: Part, request: Request, limit: float, scratch: Path, log: TextIO, on_message: Message) -> str | None:
    """Run a part to its end or its limit.

    Args:
        limit: seconds after which it is ended.
        scratch: a temporary folder, removed after the report.
        log: file for all other output of the part.
        on_message: called with the kind and the value of each message (see `channel.Reporter`), except errors, and every
            half second with the kind `tick`.

    Returns:
        None if it ended well, otherwise the reason in one line.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sample.gpu_report.worker", part.module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment(part, request, scratch),
        text=True,
        start_new_session=True,  # Ctrl-C reaches only the report, which ends the part
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + limit
    error = None
    try:
        process.stdin.write(request.to_text() + "\n")
        process.stdin.flush()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return f"{AT_LIMIT} of {limit:.0f} s"
            try:
                line = lines.get(timeout=min(_TICK, left))
            except queue.Empty:
                on_message("tick", None)
                continue
            if line is None:
                break
            ((kind, value),) = json.loads(line).items()
            if kind == "error":
                error = value
            else:
                on_message(kind, value)
        status = process.wait(timeout=max(deadline - time.monotonic(), 1))
        return error or failures.ended(status)
    except BrokenPipeError:  # it ended before it read the request
        return failures.ended(process.wait()) or "ended without results"
    except subprocess.TimeoutExpired:  # all results are there, but the process hangs
        return error
    finally:
        _end(process)


def _read(stream: TextIO, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End a part and the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):  # text that the part has not read
            stream.close()
