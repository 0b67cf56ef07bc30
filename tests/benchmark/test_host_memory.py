"""The peak of this process's memory, which the benchmark reports on a CPU."""

import mmap
import sys

import numpy as np
import pytest

from sample.benchmarking import host_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be reset only on Linux")
def test_the_peak_is_new_after_a_reset():
    host_memory.reset()
    before = host_memory.peak()
    # Always new memory; malloc may reuse a part of the heap that is resident already.
    with mmap.mmap(-1, 2**29) as block:
        np.frombuffer(block, np.uint8).fill(1)
    assert host_memory.peak() > before + 2**28
    host_memory.reset()
    assert host_memory.peak() < before + 2**28
