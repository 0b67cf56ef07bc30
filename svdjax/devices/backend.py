"""One line for JAX's failure to start a backend, such as `JAX_PLATFORMS=cuda` without CUDA."""

from __future__ import annotations

import os
import traceback

from svdjax.errors import one_line


def failure_in_one_line(error: BaseException) -> str | None:
    """What was asked for and what is there, if JAX raised `error` while it started its backends; None for other errors."""
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.filename.endswith("xla_bridge.py") and frame.name in ("backends", "_init_backend") for frame in frames):
        return None
    asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    reason = f" ({one_line(error, 160)})" if str(error) else ""
    if not asked:
        return f"JAX can't start on the devices of this machine{reason}: JAX_PLATFORMS=cpu uses the CPU"
    advice = "unset it to use what is there, or set JAX_PLATFORMS=cpu"
    if {"cuda", "gpu", "rocm"} & set(asked.lower().split(",")):
        advice += '; an NVIDIA GPU needs its driver and the extra cuda: pip install -e ".[cuda]"'
    return f"JAX_PLATFORMS={one_line(asked)}: JAX can't use this platform here{reason}; {advice}"
