"""Bytes that programs move through device memory, on programs whose bytes can be counted by hand.

The programs in `tests/data/hlo` were compiled for an H100 by `jax[cuda13]` 0.10.2; metadata and backend settings were removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sample.planning import hbm

RECORDED = Path(__file__).parents[1] / "data" / "hlo"

# Program -> (kernels, bytes) by kind. F is the size of a float32 and an int32, B of a bfloat16, in bytes.
F, B = 4, 2
BYTES = {
    # tanh(a) * b + a: `a` is used twice and read once
    "elementwise": {"elementwise": (1, 3 * 1000 * 1000 * F)},
    # (512, 1024) @ (1024, 256) in eight parts, and their sum
    "product": {
        "matrix product": (1, (512 * 1024 + 1024 * 256) * B + 8 * 512 * 256 * F),
        "reduction": (1, 8 * 512 * 256 * F + 512 * 256 * B),
    },
    # exp(a)[100:200] + 1, with `a` of 10000 rows; the slice comes after the exponential
    "slice": {"elementwise": (1, 2 * 100 * 64 * F)},
    # exp(a[:100]) - a[100:200]
    "slices": {"elementwise": (1, 3 * 100 * 64 * F)},
    # a[i] for 30 indices
    "gather": {"gather": (1, 2 * 30 * 64 * F + 30 * F)},
    # sum(a * a, axis=1)
    "reduction": {"reduction": (1, 4096 * 512 * F + 4096 * F)},
    # ten of a thousand rows replaced, in the memory of the donated argument; and in a copy of an argument that is kept
    "update": {"update in place": (1, 2 * 10 * 64 * F)},
    "update_of_kept": {"update in place": (1, 2 * 10 * 64 * F), "copy": (1, 2 * 1000 * 64 * F)},
    # 6 iterations that read, change and write one row of 6; also reading, increasing and comparing the counter
    "updates": {"update in place": (6, 6 * (2 * 1000 + 1) * F), "elementwise": (12, 6 * (3 * F + 1)), "copy": (1, 2 * F)},
    # 10 iterations: carry * sin(row), which is stacked; before, the stack is filled with zeros and the carry copied
    "scan": {
        "elementwise": (31, 10 * ((3 * 1000 + 1) * F + 3 * F + 1) + 10 * 1000 * F),
        "update in place": (10, 10 * (2 * 1000 + 1) * F),
        "copy": (2, 2 * 1000 * F + 2 * F),
    },
    "two_results": {"elementwise": (1, 4 * 2048 * 256 * F)},
    "concatenation": {"concatenation": (1, 2 * 800 * 64 * F)},
    "transposition": {"transposition": (1, 2 * 1024 * 2048 * F)},
    # 3x3, 64 to 128 channels; the kernel is transposed before
    "convolution": {
        "convolution": (1, (2 * 32 * 32 * (64 + 128) + 9 * 64 * 128) * B),
        "transposition": (1, 2 * 9 * 64 * 128 * B),
    },
    "attention": {"attention": (1, 4 * 2 * 128 * 4 * 64 * B)},
}


def counted(text: str) -> dict[str, tuple[int, float]]:
    return {k.kind: (k.count, k.bytes) for k in hbm.moved(text)}


@pytest.mark.parametrize("name", BYTES)
def test_recorded_programs(name):
    assert counted((RECORDED / f"{name}.txt").read_text()) == BYTES[name]


def test_every_recorded_program_is_tried():
    assert {path.stem for path in RECORDED.iterdir()} == BYTES.keys()


def test_largest_first_and_total():
    kernels = hbm.moved((RECORDED / "scan.txt").read_text())
    assert [k.kind for k in kernels] == ["elementwise", "update in place", "copy"]
    assert hbm.total(kernels) == sum(size for _, size in BYTES["scan"].values())
