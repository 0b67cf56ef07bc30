"""`--kernels` of the commands."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sample import animate, animation_options, benchmark, evaluate, interpolate, interpolation_options
from sample.benchmarking import options as benchmark_options
from sample.evaluation import options as evaluation_options
from svdjax.errors import InputError
from svdjax.kernels.choice import PALLAS, XLA, kernels

COMMANDS = {
    "interpolate": (interpolate, "run", interpolation_options, []),
    "animate": (animate, "run", animation_options, []),
    "evaluate": (evaluate, "evaluate", evaluation_options, ["--out", "o"]),
    "benchmark": (benchmark, "measure", benchmark_options, []),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_option_is_read(name):
    *_, options, required = COMMANDS[name]
    parse = options.parser().parse_args
    assert parse(required).kernels == XLA
    assert parse([*required, "--kernels", "pallas"]).kernels == PALLAS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_runs_with_the_kernels(name, monkeypatch):
    module, work, _, _ = COMMANDS[name]
    request = SimpleNamespace(kernels=PALLAS)
    used = []

    def stop(*_):
        used.append(kernels())
        raise InterruptedError

    parse = "check_alone" if name == "interpolate" else "parse"
    monkeypatch.setattr(module, parse, lambda argv: (request, None) if name == "benchmark" else request)
    monkeypatch.setattr(module, work, stop)
    if name == "benchmark":
        monkeypatch.setattr(module, "describe", lambda options: None)
    with pytest.raises(InterruptedError):
        module.command([])
    assert used == [PALLAS]
    assert kernels() == XLA


def test_no_mesh():
    with pytest.raises(InputError, match="--kernels pallas runs on one device: expected no --mesh"):
        benchmark_options.parse(["--train", "--kernels", "pallas", "--mesh", "data=2", "--compile-only"])
