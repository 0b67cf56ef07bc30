"""What the benchmark of a training step saves before each stage. The stages are faked."""

from __future__ import annotations

import dataclasses

import benchmark_model
import jax
import numpy as np
import pytest

from sample.benchmarking import flops, timing, train_benchmark, train_versus_diffusers
from sample.benchmarking.options import BenchmarkOptions
from sample.benchmarking.results import MatmulLimit, ProgramPlan, ProgramTiming, Timings
from sample.benchmarking.training_options import TrainingOptions
from svdjax.errors import InputError

PLAN = ProgramPlan(
    trace_seconds=1.0,
    compile_seconds=2.0,
    compile_seconds_warm=None,
    scratch_bytes=3,
    argument_bytes=4,
    total_bytes=5,
)
TRAINING = TrainingOptions(batch_size=1, mesh=None, remat=True)
OPTIONS = BenchmarkOptions(
    config=benchmark_model.TINY, model="tiny", size=(24, 16), num_frames=3, dtype="float32", against_diffusers=True
)


def test_each_stage_keeps_the_results_of_those_before(monkeypatch):
    """Counting, which only traces, comes after compiling and timing. The comparison begins with the first state again."""
    saved, restarted, first = [], [], {}

    def compile_program(fn, args, **_):
        first.update({name: np.array(value) for name, value in args[0].trained.items()})
        return timing.Program(run=lambda: None, compiled=None, arguments=args, plan=PLAN, restart=restarted.append)

    def time_program(name, program, repeats):
        for x in jax.tree.leaves(program.arguments[0]):
            x.delete()  # as a run, which donates the state
        return ProgramTiming(Timings([1.0]), 6, 5)

    def compare(workload, *_):
        raise InputError("too large")

    monkeypatch.setattr(timing, "compile_program", compile_program)
    monkeypatch.setattr(timing, "time_program", time_program)
    monkeypatch.setattr(timing, "matmul_limit", lambda _: MatmulLimit(8, 1.0))
    monkeypatch.setattr(train_versus_diffusers, "compare", compare)
    with pytest.raises(InputError, match="too large"):
        train_benchmark.measure_training(OPTIONS, TRAINING, lambda measured: saved.append(measured.to_json()))
    keys = ["train_step_compile_seconds", "train_step_seconds", "matmul_flops_per_second", "train_step_flops"]
    assert [[key in values for key in keys] for values in saved] == [[i <= n for i in range(4)] for n in range(4)]
    assert saved[0]["train_step_total_bytes"] == 5
    assert saved[1]["train_step_peak_before_bytes"] == 5
    (state,) = restarted
    for name, value in first.items():
        assert isinstance(state.trained[name], jax.Array)
        np.testing.assert_array_equal(state.trained[name], value)


def test_compiling_only_saves_before_counting(monkeypatch):
    program = timing.Program(run=lambda: None, compiled=None, arguments=((), ()), plan=PLAN)
    monkeypatch.setattr(timing, "compile_program", lambda *_, **__: program)
    monkeypatch.setattr(flops, "count", lambda *_: 7)
    saved, options = [], dataclasses.replace(OPTIONS, compile_only=True, against_diffusers=False)
    measured = train_benchmark.measure_training(options, TRAINING, saved.append)
    assert [values.step.flops for values in saved] == [None]
    assert measured.step.flops == 7


def test_peak_before_the_runs(monkeypatch):
    peaks = iter([1, 2])
    monkeypatch.setattr(timing, "peak_bytes", lambda: next(peaks))
    program = timing.Program(run=lambda: None, compiled=None, arguments=(), plan=PLAN)
    timed = timing.time_program("x", program, 1)
    assert (timed.peak_before_bytes, timed.peak_bytes) == (1, 2)
