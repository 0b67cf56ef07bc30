"""The part of the training step: what it keeps of its process, and at which size it compares. The process is faked."""

from __future__ import annotations

import contextlib
import sys

import pytest

from sample.report_parts import train_step
from svdjax.errors import InputError

BENCHMARK = """#!{python}
import json, os, sys
def write(**values):
    file = sys.argv[sys.argv.index("--json") + 1]
    open(file + ".new", "w").write(json.dumps(dict(device="a card", train_step_seconds=2.0, **values)))
    os.replace(file + ".new", file)
print("compiling ...", file=sys.stderr, flush=True)
write()
print("comparing ...", file=sys.stderr, flush=True)
if "32x16" in sys.argv:
    sys.exit("error: out of memory\\nsome advice")
if "40x16" in sys.argv:
    write(last=1.0)
    os.kill(os.getpid(), 9)
write(against_diffusers={{"ratio": 2.0}})
"""


@pytest.mark.parametrize(
    ("size", "error", "last"),
    [
        ((24, 16), None, {"against_diffusers": {"ratio": 2.0}}),
        ((32, 16), "benchmark failed: out of memory$", {}),
        ((40, 16), "benchmark failed: killed by the system, probably for lack of host memory$", {"last": 1.0}),
    ],
)
def test_what_came_before_a_failure_is_kept(size, error, last, tmp_path, monkeypatch, sent, small):
    pytest.importorskip("diffusers")
    program = tmp_path / "python"
    program.write_text(BENCHMARK.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(train_step.sys, "executable", str(program))
    reporter, values = sent
    with contextlib.nullcontext() if error is None else pytest.raises(InputError, match=error):
        train_step.measure(small(size=size), reporter)
    assert values("progress") == ["compiling", "comparing"]
    assert values("results")[-1] == {"train_step_seconds": 2.0, **last}


FULL, SMALLER = (1024, 576), (576, 320)


@pytest.mark.parametrize(
    ("size", "frames", "memory", "compared"),
    [
        (FULL, 25, 140e9, FULL),
        (FULL, 14, 80e9, SMALLER),
        (FULL, 14, None, SMALLER),
        (FULL, 5, 80e9, FULL),
        ((768, 448), 14, 80e9, (768, 448)),
        ((768, 448), 14, 40e9, SMALLER),
        ((256, 256), 14, 8e9, (256, 256)),  # a "smaller" size would be larger
        (SMALLER, 14, 24e9, SMALLER),
    ],
)
def test_size_of_the_comparison(size, frames, memory, compared, monkeypatch, sent, small):
    """On a GPU: the size of the report if both steps fit, or if it is small; the report's own step is always measured."""
    runs = []
    monkeypatch.setattr(train_step, "not_installed", lambda _: None)
    monkeypatch.setattr(train_step, "_benchmark", lambda _, size, against, *__: runs.append((size, against)))
    train_step.measure(small(size=size, num_frames=frames, gpu=True, memory_bytes=memory), sent[0])
    assert runs == [(size, True)] if compared == size else [(size, False), (compared, True)]
