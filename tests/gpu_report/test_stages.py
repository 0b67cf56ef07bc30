"""What a part has sent when a later stage takes too long: an exception stands for the end at the limit."""

from __future__ import annotations

import numpy as np
import pytest

import svdjax
from sample.benchmarking import flops, timing
from sample.benchmarking.results import MatmulLimit, ProgramPlan, ProgramTiming, Timings
from sample.report_parts import decoding, dual_step, whole_clip
from svdjax.errors import InputError

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


def cut_off(name, reported, request):
    """What a part had sent before its end at the limit."""
    reporter, results = reported
    with pytest.raises(AtLimit):
        PARTS[name].measure(request, reporter)
    return results()


@pytest.mark.parametrize("name", PARTS)
def test_compile_times_and_memory_come_before_the_timing(name, program, reported, small, monkeypatch):
    monkeypatch.setattr(timing, "time_program", end)
    found = cut_off(name, reported, small())
    for key in ("trace_seconds", "compile_seconds", "compile_seconds_warm", "scratch_bytes", "total_bytes"):
        assert found[f"{name}_{key}"] == getattr(PLAN, key)


@pytest.mark.parametrize("name", PARTS)
def test_times_come_before_counting(name, program, reported, small, monkeypatch):
    monkeypatch.setattr(flops, "count", end)
    found = cut_off(name, reported, small())
    assert found[f"{name}_seconds"] == 1
    assert (found[f"{name}_peak_before_bytes"], found[f"{name}_peak_bytes"]) == (6, 7)
    assert ("matmul_size" in found) == (name == "dual_step")


def test_stages_of_a_clip(reported, small, monkeypatch, tmp_path):
    """The time of sampling comes before decoding; that of decoding, and the peak, before writing."""
    found, (reporter, results) = {}, reported

    def interpolate(*_, progress, **__):
        for done in (1, 2):
            progress(done, 2)
            found[f"evaluation {done}"] = results().keys()
        return np.zeros((3, 16, 24, 3), np.uint8)

    def write_video(*_):
        found["decoding"] = results().keys()
        raise AtLimit

    monkeypatch.setattr(svdjax, "interpolate", interpolate)
    monkeypatch.setattr(whole_clip, "write_video", write_video)
    with pytest.raises(AtLimit):
        whole_clip.measure(small(folder=str(tmp_path)), reporter)
    planned = {"clip_peak_before_bytes"}
    sampled = planned | {"clip_first_encode_and_sample_seconds"}
    decoded = sampled | {"clip_first_decode_seconds", "clip_peak_bytes"}
    assert found == {"evaluation 1": planned, "evaluation 2": sampled, "decoding": decoded}


def test_output_of_a_clip_is_checked_first(sent, small, tmp_path):
    reporter, values = sent
    with pytest.raises(InputError, match=r"clip\.mp4"):
        whole_clip.measure(small(folder=str(tmp_path / "missing")), reporter)
    assert not values("progress")
