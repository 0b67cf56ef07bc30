"""What a part has sent when a later stage takes too long: an exception stands for the end at the limit."""

from __future__ import annotations

import pytest

from sample.benchmarking import flops, timing
from sample.benchmarking.results import MatmulLimit, ProgramPlan, ProgramTiming, Timings
from sample.report_parts import decoding, dual_step

PLAN = ProgramPlan(
    trace_seconds=1.0,
    compile_seconds=2.0,
    compile_seconds_warm=0.5,
    scratch_bytes=3,
    argument_bytes=4,
    total_bytes=5,
)


class AtLimit(Exception):
    pass


def end(*args, **_):
    raise AtLimit


@pytest.fixture
def program(monkeypatch):
    """Nothing is compiled; a run takes one second."""
    program = timing.Program(run=lambda: None, compiled=None, arguments=(), plan=PLAN)
    monkeypatch.setattr(timing, "compile_program", lambda *_, **__: program)
    monkeypatch.setattr(decoding, "compile_decode", lambda *_, **__: program)
    monkeypatch.setattr(timing, "time_program", lambda *_: ProgramTiming(Timings([1.0]), 7, 6))
    monkeypatch.setattr(timing, "matmul_limit", lambda _: MatmulLimit(8, 1.0))


PARTS = {"dual_step": dual_step, "decode": decoding}


@pytest.mark.parametrize("name", PARTS)
def test_compile_times_and_memory_come_before_the_timing(name, program, reported, small, monkeypatch):
    monkeypatch.setattr(timing, "time_program", end)
    reporter, results = reported
    with pytest.raises(AtLimit):
        PARTS[name].measure(small(), reporter)
    found = results()
    for key in ("trace_seconds", "compile_seconds", "compile_seconds_warm", "scratch_bytes", "total_bytes"):
        assert found[f"{name}_{key}"] == getattr(PLAN, key)


@pytest.mark.parametrize("name", PARTS)
def test_times_come_before_counting(name, program, reported, small, monkeypatch):
    monkeypatch.setattr(flops, "count", end)
    reporter, results = reported
    with pytest.raises(AtLimit):
        PARTS[name].measure(small(), reporter)
    found = results()
    assert found[f"{name}_seconds"] == 1
    assert (found[f"{name}_peak_before_bytes"], found[f"{name}_peak_bytes"]) == (6, 7)
    assert ("matmul_size" in found) == (name == "dual_step")
