"""Memory that a program has freed is not taken from the system again."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from svdjax.runtime import malloc
kept = malloc.keep_freed() if sys.argv[1] == "keep" else False
import resource, jax, jax.numpy as jnp
work = jax.jit(lambda x: jnp.cos(jnp.sin(x)[::-1])[:, ::-1].T.sum() + jnp.tan(x)[::-1].T.cumsum(0)[-1].sum())
x = jnp.ones((4000, 4000), jnp.float32)  # blocks above 32 MB are what glibc gives back
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(work(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(kept), min(faults() for _ in range(12)))  # small blocks may lie in the way once
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is glibc's")
def test_memory_is_kept():
    def run(mode):
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return map(int, done.stdout.split())

    kept, few = run("keep")
    assert kept
    _, many = run("leave")
    assert many > 1000
    assert few < many / 10
