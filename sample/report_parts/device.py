"""The device and the versions of the packages: queried in a separate process, so that the report's process holds none."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

import jax

import svdjax
from sample.benchmarking import timing
from sample.gpu_report.channel import Reporter, Request

_PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers")


def measure(request: Request, reporter: Reporter) -> None:
    """Report the device, its memory, and the installed versions."""
    versions = {"svdjax": svdjax.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    stats = jax.devices()[0].memory_stats() or {}
    reporter.results(
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": timing.device_name(),
            "platform": jax.default_backend(),
            "memory_bytes": stats.get("bytes_limit"),
            "versions": versions,
        }
    )
