"""The benchmark command at a tiny size: reported values, agreement with PyTorch, user errors. No timings are checked."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import sys
from pathlib import Path
from unittest import mock

import benchmark_model
import jax
import numpy as np
import pytest
from benchmark_model import MEASURED, PLANNED, TINY

from sample import benchmark
from sample.benchmarking import flops, options, timing, versus_diffusers, workloads
from svdjax.errors import InputError
from svdjax.models.svd import leaves


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return benchmark_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tiny():
    return workloads.make(TINY, (24, 16), 3, "float32", allocate=True)


def test_compile_only(model, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    assert benchmark.main(["--compile-only", "--model", str(model), "--size", "32x16", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    for name in ("dual_step", "decode"):
        for what in PLANNED:
            assert results[f"{name}_{what}"] > 0
        assert f"{name}_seconds" not in results  # nothing ran
    assert results["dtype"] == "bfloat16"
    assert results["model"] == str(model)
    assert results["latent_shape"] == [3, 8, 16, 4]
    assert results["config"] == json.loads(json.dumps(TINY.to_json()))
    # two bytes per parameter, and little else
    assert 2 * results["unet_parameters"] < results["dual_step_argument_bytes"] < 3 * results["unet_parameters"]
    shown = capsys.readouterr().out
    assert f"{results['dual_step_flops'] / 1e12:,.3f} TFLOP" in shown
    assert "--compile-only" in shown.splitlines()[-1]


def test_dual_step_costs_four_forward_passes(tiny):
    """Two directions, each with and without conditioning, but no queries, keys and maps in the backward half."""
    unet, _, inputs = tiny.dual_step
    x = np.zeros((1, 3, *inputs.latents.shape[2:4], 8), np.float32)
    rest = (np.zeros(shape, np.float32) for shape in ((1,), (1, 1, 16), (1, 3)))
    once = flops.count(lambda unet, *args: unet(*args), unet, x, *rest)
    assert 0.9 * 4 * once < flops.count(workloads.dual_step, *tiny.dual_step) < 4 * once


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """JSON and output of a run against diffusers that replaces an old file."""
    pytest.importorskip("diffusers")
    file = tmp_path_factory.mktemp("run") / "numbers.json"
    file.write_text("old")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), mock.patch.object(timing, "_MATMUL", {"cpu": (64, 1), "gpu": (64, 1)}):
        arguments = ["--model", str(model), "--repeats", "2", "--against", "diffusers", "--json", str(file)]
        assert benchmark.main(arguments) == 0
    assert list(file.parent.iterdir()) == [file]
    return json.loads(file.read_text()), shown.getvalue()


def test_run(run):
    results, shown = run
    for name in ("dual_step", "decode"):
        for what in PLANNED + MEASURED:
            assert results[f"{name}_{what}"] > 0
        assert len(results[f"{name}_seconds_all"]) == 2
        assert results[f"{name}_peak_bytes"] > results[f"{name}_argument_bytes"]
    assert results["dual_step_compile_seconds_warm"] > 0
    rate = results["dual_step_flops"] / results["dual_step_seconds"]
    assert math.isclose(results["dual_step_share_of_matmul"], rate / results["matmul_flops_per_second"])
    assert (results["width"], results["height"], results["num_frames"]) == (24, 16, 3)
    assert set(results["versions"]) >= {"svdjax", "jax", "jaxlib", "flax", "python"}
    assert "from the persistent cache" in shown
    assert f"{results['dual_step_seconds']:.3f} s median of 2" in shown


def test_against_diffusers(run):
    results, shown = run
    comparison = results["against_diffusers"]
    # float32 rounding of a dozen layers; swapped weights, unrotated maps or wrong guidance give 1e-2 or more
    assert comparison["relative_difference"] < 1e-5
    for name in ("ours", "diffusers", "diffusers_lean"):
        assert len(comparison[f"{name}_seconds_all"]) == 2
    assert math.isclose(comparison["ratio"], comparison["diffusers_seconds"] / comparison["ours_seconds"])
    assert math.isclose(comparison["ratio_lean"], comparison["diffusers_lean_seconds"] / comparison["ours_seconds"])
    assert comparison["diffusers_peak_bytes"] > 2**20
    assert "official to svdjax" in shown


def test_disagreement_stops_the_comparison(tiny):
    """Different steps are not compared; here the latents have another order."""
    unet, backward, inputs = tiny.dual_step
    other = dataclasses.replace(inputs, latents=inputs.latents[:, ::-1])
    program = timing.compile_program(workloads.dual_step, (unet, backward, other), warm=False)
    _, v = program.run()
    assert 0.1 < np.abs(v).mean() < 10  # random weights keep activations in range, also for 16 bits
    with pytest.raises(RuntimeError, match="differ by"):
        versus_diffusers.compare(tiny, program, "float32", 1)


def test_disagreement_in_16_bits_is_only_reported(capsys):
    versus_diffusers.check_agreement("gradients", 0.2, "bfloat16")
    assert "note: gradients of svdjax and diffusers differ by 2.0e-01" in capsys.readouterr().err
    for difference, dtype in ((0.2, "float32"), (math.nan, "bfloat16")):
        with pytest.raises(RuntimeError, match=r"gradients .* differ by"):
            versus_diffusers.check_agreement("gradients", difference, dtype)


def test_official_step_needs_the_rotation(tiny):
    """The lean variant agrees with the full official step; unrotated maps don't."""
    from sample.benchmarking import torch_dual_step

    unet, backward, _ = tiny.dual_step
    weights = [versus_diffusers.to_torch(x, "float32", "cpu") for x in (leaves(unet), backward.params)]
    step = torch_dual_step.OfficialStep(dataclasses.asdict(TINY.unet), *weights)
    inputs = versus_diffusers.torch_inputs(tiny, "float32", "cpu")
    full = step(inputs)[1]
    step.set_lean(True)
    assert float((step(inputs)[1] - full).norm() / full.norm()) < 1e-6
    for attention in step.rotating:
        attention.partner = Unrotated(attention.partner)
    assert float((step(inputs)[1] - full).norm() / full.norm()) > 1e-3


class Unrotated:
    def __init__(self, partner):
        self.partner = partner

    @property
    def maps(self):
        return self.partner.maps.flip(-2, -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100x100"], "multiples of 64"),
        (["--size", "large"], "expected WIDTHxHEIGHT"),
        (["--num-frames", "1"], "--num-frames is 1"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--preset", "huge"], "--preset"),
        (["--dtype", "int8"], "--dtype"),
        (["--compile-only", "--against", "diffusers"], "expected only one of them"),
        (["--preset", "small", "--model", "x"], "expected only one of them"),
        (["--model", "no such folder"], "no such folder"),
        (["--json", "no such folder/x.json"], "doesn't exist"),
        (["--json", "."], "is a folder"),
    ],
)
def test_user_errors(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_out_of_memory(monkeypatch, capsys):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    monkeypatch.setattr(benchmark, "measure", mock.Mock(side_effect=error))
    assert benchmark.main(["--preset", "small"]) == 2
    assert capsys.readouterr().err == f"error: the device ran out of memory: {benchmark.MEMORY_ADVICE}\n"


def test_missing_pytorch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert benchmark.main(["--against", "diffusers"]) == 2
    assert capsys.readouterr().err == 'error: --against diffusers: diffusers not installed: pip install -e ".[test]"\n'


def test_defaults(model):
    given, file = options.parse([])
    assert file is None
    assert (given.model, given.size, given.num_frames, given.dtype) == ("small", (256, 256), 14, "float32")
    given, _ = options.parse(["--compile-only"])
    assert (given.model, given.size, given.num_frames, given.dtype) == ("svd-xt", (1024, 576), 25, "bfloat16")
    given, _ = options.parse(["--model", str(model), "--num-frames", "5", "--dtype", "float16"])
    assert (given.config, given.size, given.num_frames, given.dtype) == (TINY, (24, 16), 5, "float16")


def test_command_line_repeats_itself(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    for arguments in (
        ["--compile-only"],
        ["--against", "diffusers", "--size", "128x64"],
        ["--model", "tiny", "--repeats", "3"],
    ):
        given, _ = options.parse(arguments)
        again = options.command_line(given).split()
        assert again[:3] == ["python", "-m", "sample.benchmark"]
        assert options.parse(again[3:])[0] == given


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "numbers.json"
    file.write_text("old")
    with (
        mock.patch.object(Path, "replace", side_effect=OSError(28, "No space left on device")),
        pytest.raises(InputError, match="can't be written: No space"),
    ):
        benchmark.write_json(file, {})
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_unused_weights_count_as_memory():
    x = np.ones((64, 64), np.float32)
    assert timing.compile_program(lambda x, unused: x + 1, (x, x), warm=False).plan.argument_bytes == 2 * x.nbytes


def test_the_users_cache_is_restored():
    before = {name: getattr(jax.config, name) for name in timing._CACHE_OPTIONS}
    program = timing.compile_program(lambda x: x @ x, (np.ones((4, 4), np.float32),), warm=True)
    np.testing.assert_array_equal(program.run(), np.full((4, 4), 4.0))
    assert program.plan.compile_seconds_warm is not None
    assert {name: getattr(jax.config, name) for name in timing._CACHE_OPTIONS} == before


@pytest.mark.heavy
def test_full_size_plan(tmp_path):
    """SVD-XT, 25 frames of 1024x576, bfloat16: fewer operations than without the exact savings; fits a GPU of 80 GB."""
    file = tmp_path / "numbers.json"
    assert benchmark.main(["--compile-only", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert results["dual_step_flops"] <= 0.97 * 319.8e12
    assert results["dual_step_scratch_bytes"] <= 40e9
    # two bytes each for 1,524,623,082 parameters, and the backward direction's 24,780,800 and its biases
    assert 2 * 1_549_403_882 < results["dual_step_argument_bytes"] < 3.2e9
