"""Processes of parts: messages, errors, crashes, limits. The parts are small modules of the tests."""

from __future__ import annotations

import dataclasses
import time

import hosts
import pytest

from sample.gpu_report import process
from sample.gpu_report.channel import Request
from sample.gpu_report.parts import Part
from svdjax.config import SVDConfig

REQUEST = Request(
    config=SVDConfig(),
    model="svd-xt",
    size=(64, 64),
    num_frames=2,
    dtype="float32",
    repeats=1,
    gpu=False,
    memory_bytes=None,
    folder="",
)


GOOD = """
import os
def measure(request, reporter):
    print("noise"); os.system("echo more noise")
    reporter.progress("working")
    with reporter.attempt("comparison"):
        raise MemoryError("too big")
    reporter.results({"width": request.size[0]})
"""
BEHAVIOURS = {
    "good": (GOOD, None),
    "memory": ("def measure(request, reporter):\n    raise RuntimeError('RESOURCE_EXHAUSTED: 9 GiB')", "out of memory"),
    "error": ("def measure(request, reporter):\n    raise KeyError('x')", "KeyError: 'x'"),
    "crash": ("import os\ndef measure(request, reporter):\n    os.abort()", "crashed: SIGABRT"),
    "leaves": ("import os\ndef measure(request, reporter):\n    os._exit(3)", "exit status 3"),
}


def run_process(tmp_path, monkeypatch, name: str, text: str, limit: float = 60):
    """Run a real process with a part of this text; return the error, the messages and the process' other output."""
    (tmp_path / f"{name}_part.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    messages = []
    fake = Part(name=name, title=name, module=f"{name}_part", gpu_seconds=1, cpu_seconds=1)
    with (tmp_path / "log.txt").open("w") as log:
        error = process.run(fake, REQUEST, limit, tmp_path, log, lambda *message: messages.append(message))
    return error, [m for m in messages if m[0] != "tick"], (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_processes(name, tmp_path, monkeypatch):
    text, expected = BEHAVIOURS[name]
    error, messages, log = run_process(tmp_path, monkeypatch, name, text)
    if expected is None:
        assert error is None
        assert messages == [
            ("progress", "working"),
            ("note", "comparison: out of memory (MemoryError: too big)"),
            ("results", {"width": 64}),
        ]
        assert "noise\n" in log
        assert "more noise\n" in log
    else:
        assert expected in error
        assert "\n" not in error


@pytest.mark.parametrize(
    ("variable", "usable"), [(None, 95), ("XLA_PYTHON_CLIENT_MEM_FRACTION", 50), ("XLA_CLIENT_MEM_FRACTION", 50)]
)
def test_memory_of_a_part(variable, usable, tmp_path, monkeypatch):
    """A part may be limited to GiB of the card, here of 100, whatever the user gives the others; JAX refuses two names."""
    names = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
    for name in (*names, "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "0.5")
    device = dataclasses.replace(REQUEST, gpu=True, memory_bytes=usable * 2**30)
    part = Part(name="a", title="a", module="a", gpu_seconds=1, cpu_seconds=1)
    limited = dataclasses.replace(part, memory_gib=10.8)
    for which, share, at_start in ((part, usable / 100, "false"), (limited, 0.108, "true")):
        own = process.environment(which, device, tmp_path)
        assert float(own[names[0]]) == pytest.approx(share)
        assert names[1] not in own
        assert own["XLA_PYTHON_CLIENT_PREALLOCATE"] == at_start


def test_hanging_part_is_ended_with_its_children(tmp_path, monkeypatch):
    text = """
import subprocess, time
def measure(request, reporter):
    child = subprocess.Popen(["sleep", "100"])
    reporter.results({"child": child.pid})
    time.sleep(100)
"""
    started = time.monotonic()
    error, messages, _ = run_process(tmp_path, monkeypatch, "hang", text, limit=3)
    assert time.monotonic() - started < 30
    assert error == "ended at its limit of 3 s"
    ((_, values),) = messages
    assert hosts.ends(values["child"])
