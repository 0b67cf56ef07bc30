"""Freed memory is kept for the next program, unless JAX has an accelerator."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from svdjax.devices import malloc

keep_freed = malloc.keep_freed  # a fixture of all tests replaces it in the module

SCRIPT = """
import importlib.metadata, sys
importlib.metadata.entry_points = lambda **group: []  # no plugin, as without an accelerator
from svdjax.devices import malloc
kept = malloc.keep_freed() if sys.argv[1] == "keep" else False
import resource, jax, jax.numpy as jnp
work = jax.jit(lambda x: jnp.cos(jnp.sin(x)[::-1])[:, ::-1].T.sum() + jnp.tan(x)[::-1].T.cumsum(0)[-1].sum())
x = jnp.ones((4000, 4000), jnp.float32)  # glibc returns blocks of more than 32 MB to the system
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(work(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(kept), min(faults() for _ in range(12)))  # a single run may take new memory because of fragmentation
"""


@pytest.mark.heavy
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_kept():
    def run(mode):
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], env=env, capture_output=True, text=True, check=True)
        return map(int, done.stdout.split())

    kept, few = run("keep")
    assert kept
    _, many = run("leave")
    assert many > 1000
    assert few < many / 10


def test_with_an_accelerator_nothing_changes(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ["cuda"] if group == "jax_plugins" else [])
    monkeypatch.setattr(malloc.ctypes, "CDLL", None)  # not called
    assert keep_freed() is False
