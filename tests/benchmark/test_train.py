"""The benchmark of a training step at a tiny size: reported values, agreement with PyTorch, user errors."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import benchmark_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_model import TINY
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractMesh

from sample import benchmark
from sample.benchmarking import flops, options, timing, train_versus_diffusers, train_workload, versus_diffusers
from svdjax.losses import finetuning
from svdjax.models.svd import leaves
from svdjax.parallel import sharding
from svdjax.parallel.mesh import AXES, make_mesh
from train.steps.settings import FinetuningSettings

SETTINGS = FinetuningSettings(batch_size=2, num_frames=3, size=(24, 16), remat=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return benchmark_model.write(tmp_path_factory.mktemp("model") / "tiny")


def one_device():
    return make_mesh("data=1", jax.devices()[:1])


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """JSON and output of a run against diffusers; the JSON of before the comparison, under `before`."""
    pytest.importorskip("diffusers")
    file = tmp_path_factory.mktemp("run") / "numbers.json"
    shown, written, write = io.StringIO(), [], benchmark.write_json
    saved = mock.patch.object(
        benchmark, "write_json", lambda *args: (write(*args), written.append(json.loads(file.read_text())))
    )
    with contextlib.redirect_stdout(shown), saved, mock.patch.object(timing, "_MATMUL", {"cpu": (64, 1), "gpu": (64, 1)}):
        arguments = ["--train", "--no-remat", "--model", str(model), "--repeats", "2", "--against", "diffusers"]
        assert benchmark.main([*arguments, "--json", str(file)]) == 0
    return written[-1] | {"before": written[-2]}, shown.getvalue()


@pytest.mark.heavy
def test_run(run):
    results, shown = run
    for what in benchmark_model.PLANNED + benchmark_model.MEASURED:
        assert results[f"train_step_{what}"] > 0
    assert len(results["train_step_seconds_all"]) == 2
    assert math.isclose(results["train_steps_per_second"], 1 / results["train_step_seconds"])
    rate = results["train_step_flops"] / results["train_step_seconds"]
    assert math.isclose(results["train_step_share_of_matmul"], rate / results["matmul_flops_per_second"])
    assert (results["batch_size"], results["remat"], results["mesh"]) == (1, False, {"data": 1, "fsdp": 1, "tensor": 1})
    assert "dual_step_flops" not in results
    assert all(text in shown for text in ("no encoding", f"{results['train_steps_per_second']:.3f} steps/s"))


@pytest.mark.heavy
def test_against_diffusers(run):
    results, shown = run
    comparison = results["against_diffusers"]
    assert results["before"] | {"before": results["before"], "against_diffusers": comparison} == results
    # float32 rounding of a dozen layers, forward and backward; unrotated maps give 1e-2 or more
    assert comparison["relative_difference"] < 1e-5
    assert comparison["relative_difference_of_loss"] < 1e-5
    for name in ("ours", "diffusers", "diffusers_lean"):
        assert len(comparison[f"{name}_seconds_all"]) == 2
    assert math.isclose(comparison["ratio"], comparison["diffusers_seconds"] / comparison["ours_seconds"])
    assert comparison["diffusers_peak_bytes"] > 2**20
    assert "gradients by" in shown


@pytest.fixture(scope="module")
def tiny():
    return train_workload.make(TINY, SETTINGS, "float32", one_device(), allocate=True)


def test_disagreement_stops_the_comparison(tiny):
    """Different steps are not compared; here the frames have another order."""
    pytest.importorskip("diffusers")
    state, frozen, examples = tiny.arguments
    other = dataclasses.replace(examples, latents=examples.latents[:, ::-1])
    program = timing.compile_program(tiny.update, (state, frozen, other), warm=False, steps=False)
    with pytest.raises(RuntimeError, match=r"(losses|gradients) of svdjax and diffusers differ by"):
        train_versus_diffusers.compare(tiny, program, "float32", 1)


def test_official_step_updates_the_same_tensors(tiny):
    torch = pytest.importorskip("torch")
    from sample.benchmarking.torch_train_step import OfficialTrainStep

    state, (unet, carried), examples = tiny.arguments
    forward, backward = (versus_diffusers.to_torch(x, "float32", "cpu") for x in (leaves(unet), {**state.trained, **carried}))
    before = {name: value.clone() for name, value in {**forward, **backward}.items()}
    step = OfficialTrainStep(dataclasses.asdict(TINY.unet), forward, backward, 1e-4)
    assert len(step.trained) == len(finetuning.trained_names(leaves(unet)))
    batch = train_versus_diffusers.torch_batch(examples, "cpu")
    step(batch)
    full = {name: value.clone() for name, value in step.moments().items()}
    for name, value in step.tuned.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in step.trained), name

    lean = OfficialTrainStep(dataclasses.asdict(TINY.unet), forward, {n: before[n] for n in backward}, 1e-4)
    lean.set_lean(True)
    lean(batch)
    for name, value in lean.moments().items():
        assert float((value - full[name]).norm() / full[name].norm()) < 1e-5, name


@pytest.mark.heavy
def test_each_run_is_one_more_step(tiny):
    fresh = train_workload.make(TINY, SETTINGS, "float32", one_device(), allocate=True)
    program = timing.compile_program(fresh.update, fresh.arguments, warm=False, steps=True, **fresh.jit)
    first, losses = jax.tree.map(jnp.copy, program.arguments[0]), []
    for i in range(3):
        state, result = program.run()
        assert int(state.step) == i + 1
        losses.append(float(result.loss))
    program.restart(first)
    assert float(program.run()[1].loss) == losses[0]
    assert losses[2] < losses[1] < losses[0]  # the same batch every time
    # the new state reuses the memory of the old one; the other arguments stay
    others = sum(x.nbytes for x in jax.tree.leaves(fresh.arguments[1:]))
    assert program.plan.total_bytes - program.plan.scratch_bytes - program.plan.argument_bytes < others / 2


@pytest.mark.heavy
def test_activations_cost_operations_or_memory():
    """Frames have sixteen times the area, so that activations take most of the memory."""
    count, scratch = {}, {}
    for remat in (False, True):
        settings = FinetuningSettings(batch_size=1, num_frames=3, size=(96, 64), remat=remat)
        load = train_workload.make(TINY, settings, "float32", one_device(), allocate=False)
        count[remat] = flops.count(load.update, *load.arguments)
        program = timing.compile_program(load.update, load.arguments, warm=False, steps=True, **load.jit)
        scratch[remat] = program.plan.scratch_bytes
    # two forward passes and one backward pass (as much as a forward pass, without gradients of weights); then one more
    assert 1.1 < count[True] / count[False] < 1.5
    assert scratch[True] < 0.7 * scratch[False]


@pytest.mark.heavy
def test_compile_only_on_a_simulated_mesh(model, tmp_path):
    """In a separate process with as many devices as the mesh."""
    file = tmp_path / "numbers.json"
    arguments = ["--train", "--compile-only", "--model", str(model), "--mesh", "data=2,fsdp=2", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "sample.benchmark", *arguments],
        cwd=Path(benchmark.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(file.read_text())
    assert (results["batch_size"], results["mesh"]) == (4, {"data": 2, "fsdp": 2, "tensor": 1})
    sent = {(row["kind"], row["axes"]): row["bytes"] for row in results["train_step_traffic"]}
    # each device gathers the other half of the UNet in both passes, and again for the gradients, at two bytes per weight in
    # principle; XLA's CPU backend gathers 16 bits as 32
    half = results["unet_parameters"] / 2
    assert 2 * 2 * half < sent["all-gather", "fsdp"] < 3 * 4 * half
    mesh = AbstractMesh((2, 2, 1), AXES)
    settings = FinetuningSettings(batch_size=4, num_frames=3, size=(24, 16))
    load = train_workload.make(TINY, settings, "bfloat16", one_device(), allocate=False)
    unet = sharding.device_bytes(leaves(load.arguments[1][0]), mesh)
    assert unet < results["train_step_argument_bytes"] < 1.6 * unet
    assert "MB sent by each device" in done.stdout
    assert "data=2 fsdp=2" in done.stdout


def test_layouts_that_a_program_chooses():
    """An array in another layout is moved before the first run, as in training."""
    x = jnp.arange(6.0).reshape(2, 3)
    columns = Format(Layout((1, 0)), x.sharding)
    program = timing.compile_program(
        lambda total, x: (total + x, None), (x + 0, x), warm=False, steps=True, in_shardings=(x.sharding, columns)
    )
    assert x.is_deleted()
    assert program.arguments[1].format.layout.major_to_minor == (1, 0)
    program.run()
    np.testing.assert_array_equal(program.run()[0], 3 * np.arange(6.0).reshape(2, 3))


def test_abstract_and_real_arguments_agree(tiny):
    abstract = train_workload.make(TINY, SETTINGS, "float32", one_device(), allocate=False)
    described = [
        jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), load.arguments, is_leaf=lambda x: hasattr(x, "shape"))
        for load in (tiny, abstract)
    ]
    assert jax.tree.leaves(described[0]) == jax.tree.leaves(described[1])
    assert np.abs(tiny.arguments[2].latents).mean() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "tensor=2"], "unknown axis 'tensor', expected data, guidance, rows, columns, fsdp"),
        (["--no-remat"], "--no-remat applies only to a training step: expected --train"),
        (["--batch-size", "2"], "--batch-size applies only to a training step: expected --train"),
        (["--train", "--batch-size", "0"], "--batch-size is 0"),
        (["--train", "--mesh", "data=2", "--against", "diffusers"], "expected no --mesh"),
        (["--train", "--mesh", "rows=2"], "unknown axis"),
        (["--train", "--mesh", "data=99"], "expected"),
        (["--train", "--mesh", "data=-1", "--compile-only"], "-1 stands for the available devices"),
    ],
)
def test_user_errors(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_command_line_repeats_itself(model):
    for arguments in (
        ["--train"],
        ["--train", "--no-remat", "--batch-size", "3", "--against", "diffusers"],
        ["--train", "--mesh", f"data={len(jax.devices())}"],
    ):
        given, _ = options.parse(["--model", str(model), *arguments])
        again = options.command_line(given).split()
        assert options.parse(again[3:])[0] == given


@pytest.mark.heavy
def test_full_size_plan(tmp_path):
    """SVD-XT, 14 frames of 1024x576, bfloat16 with trained tensors in float32: the step fits a GPU of 40 GB."""
    file = tmp_path / "numbers.json"
    assert benchmark.main(["--train", "--compile-only", "--num-frames", "14", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert results["train_step_total_bytes"] <= 40e9
    assert results["trained_parameters"] == 24_780_800
    # two bytes per frozen parameter; four per trained parameter and for each of AdamW's two moments
    weights = 2 * results["unet_parameters"] + 3 * 4 * results["trained_parameters"]
    assert weights < results["train_step_argument_bytes"] < 1.02 * weights
