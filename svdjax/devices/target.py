"""The kind of device that programs are made for: JAX's default device, or another one while its programs are planned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        platform: JAX's name for it: `cpu`, `gpu` or `tpu`.
        nvidia: whether it is an NVIDIA GPU, which has cuDNN.
    """

    platform: str
    nvidia: bool = False

    @property
    def is_cpu(self) -> bool:
        return self.platform == "cpu"


NVIDIA_GPU = Target("gpu", nvidia=True)
_planned: ContextVar[Target | None] = ContextVar("planned", default=None)


def target() -> Target:
    """The device that the program being traced is made for. Starts JAX's backend, unless another device is planned for."""
    planned = _planned.get()
    if planned is not None:
        return planned
    platform = jax.default_backend()
    return Target(platform, platform == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower())


@contextlib.contextmanager
def made_for(device: Target) -> Iterator[None]:
    """Within the block, trace programs for `device`, which this machine need not have.

    JAX's traces of other devices are forgotten before and after, because they don't know what they were made for.
    """
    jax.clear_caches()
    token = _planned.set(device)
    try:
        yield
    finally:
        _planned.reset(token)
        jax.clear_caches()
