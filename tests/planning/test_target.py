"""`sample.benchmark --target`: options, descriptions of cards, values and tables. Nothing is compiled."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import benchmark_model
import jax
import pytest
from jax.experimental import topologies

from sample import benchmark
from sample.benchmarking import options, train_benchmark
from sample.planning import compiling, hbm, plan, sampling, table
from sample.planning.collectives import Traffic
from sample.planning.targets import CARDS, card, description
from svdjax.checkpoints import checkpoint
from svdjax.config import CLIPConfig
from svdjax.devices.target import NVIDIA_GPU
from svdjax.memory.programs import Phase, ProgramMemory, bytes_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return benchmark_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "h1000"], "--target h1000: unknown GPU, expected h200, h100, "),
        (["--target", "h200", "--against", "diffusers"], "--target runs nothing: expected only one of them"),
        (["--hlo", "x"], "--hlo applies only to compiling for a GPU: expected --target"),
        (["--memory", "8"], "--memory applies only to compiling for a GPU: expected --target"),
        (["--target", "h200", "--memory", "-1"], "--memory"),
        (
            ["--target", "rtx4070", "--memory", "12"],
            "--memory is 12, expected at most 11.60 GiB, the memory of NVIDIA GeForce RTX 4070",
        ),
        (["--target", "h200", "--train", "--cache-latents"], "--cache-latents changes only the plan of a run: expected"),
        (["--target", "h200", "--memory", "80", "--cache-latents"], "--cache-latents applies only to a training step"),
        (["--method", "dual"], "--method applies only to compiling for a GPU: expected --target"),
        (
            ["--target", "h200", "--method", "dual", "--train"],
            "--method gives lower bounds of the time of sampling: expected no",
        ),
        (["--target", "h200", "--method", "dual", "viben"], "--method viben: method 'viben': unknown"),
        (["--target", "h200", "--hlo", "missing/x"], "--hlo missing/x: the folder "),
        (["--target", "h200", "--hlo", "file"], "--hlo file: is a file, expected a folder"),
        (["--target", "h200", "--hlo", "nowhere"], "--hlo nowhere: is a link to nowhere, expected a folder"),
        (["--target", "h200", "--hlo", "file/x"], "not a directory"),
        (["--target", "h200", "--mesh", "data=2", "--memory", "80"], "--memory plans for one device"),
        (["--target", "h200", "--train", "--mesh", "data=12"], "12 devices, expected at most 8, those of one host"),
        (["--target", "h200", "--train", "--mesh", "data=-1"], "-1 stands for the available devices"),
        (["--target", "h200", "--train", "--mesh", "data=2", "--batch-size", "3"], "expected a multiple of"),
    ],
)
def test_user_errors(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiling, "devices_of", lambda card, count=1: jax.devices()[:1] * count)
    monkeypatch.setattr(compiling, "compile_for", None)  # nothing is compiled
    Path("file").touch()
    Path("nowhere").symlink_to("missing/x")
    before = sorted(tmp_path.iterdir())
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions don't bind root")
def test_hlo_folder_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert benchmark.main(["--target", "h200", "--hlo", str(tmp_path / "x")]) == 2
    assert "no permission to write there" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--train"]])
def test_missing_extra(arguments, model, monkeypatch, capsys):
    def unknown(*_, **__):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", unknown)
    assert benchmark.main(["--target", "h100", "--model", str(model), *arguments]) == 2
    error = capsys.readouterr().err
    assert error == 'error: --target: JAX\'s GPU compiler is not available: pip install -e ".[cuda]"\n'


def test_defaults_and_repetition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, _ = options.parse(["--target", "RTX4090"])
    assert (given.model, given.size, given.num_frames, given.dtype) == ("svd-xt", (1024, 576), 25, "bfloat16")
    assert given.compile_only
    for arguments in (
        ["--target", "h200"],
        ["--target", "rtx4060", "--hlo", "texts", "--memory", "6.8"],
        ["--target", "a100", "--train", "--mesh", "data=2,fsdp=4", "--num-frames", "14"],
        ["--target", "h200", "--train", "--cache-latents", "--memory", "80"],
        ["--target", "h200", "--method", "dual:steps=10", "vibid"],
    ):
        given, _ = options.parse(arguments)
        assert options.parse(options.command_line(given).split()[3:])[0] == given


def test_jax_starts_no_gpu():
    """In a separate process, because here JAX has started."""
    code = "import jax; from sample.benchmarking import options; options.parse(['--target', 'h200']); "
    code += "print(jax.config.jax_platforms)"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "cpu\n"


@pytest.mark.parametrize("name", CARDS)
def test_descriptions(name):
    """Rates follow from cores, clocks and operations per clock, within the rounding of data sheets."""
    given = card(name.upper())
    assert f"memory_bandwidth: {given.bandwidth:.0f}" in description(given)
    # multiplications and additions of a core and clock; Hopper's matrix units run at 1.83 GHz
    per_clock = {(9, 0): 4096 * 1.83 / 1.98, (8, 0): 2048, (8, 6): 512, (8, 9): 512}[given.capability]
    assert given.flops_per_second == pytest.approx(given.cores * given.clock_ghz * 1e9 * per_clock, rel=0.01)
    assert given.usable_bytes == given.memory_bytes - int(1.2 * 2**30)


def planned(**changes):
    values = {
        "name": "dual_step",
        "card": CARDS["rtx4090"],
        "devices": 1,
        "flops": 330_400_000_000_000,
        "memory": ProgramMemory(8_000_000_000, 3_000_000_000, 500_000_000),
        "kernels": [hbm.Kernels("matrix product", 3, 756e9), hbm.Kernels("elementwise", 4, 252e9)],
        "traffic": None,
        "compile_seconds": 70.0,
    }
    return plan.PlannedProgram(**values | changes)


def test_values_and_table():
    values = plan.Plan(card=CARDS["rtx4090"], programs=[planned()]).to_json()
    assert values["dual_step_scratch_bytes"] == 8_000_000_000
    assert values["dual_step_argument_bytes"] == 3_000_000_000
    assert values["dual_step_result_bytes"] == 500_000_000
    assert values["dual_step_total_bytes"] == 11_500_000_000
    assert values["dual_step_hbm_bytes"] == 1_008_000_000_000
    assert values["dual_step_flops_floor_seconds"] == pytest.approx(2)
    assert values["dual_step_hbm_floor_seconds"] == pytest.approx(1)
    assert values["dual_step_kernels"][0] == {"kind": "matrix product", "count": 3, "bytes": 756e9}
    assert json.loads(json.dumps(values)) == values
    shown = table.table(plan.Plan(card=CARDS["rtx4090"], programs=[planned()]))
    assert "75.0%" in shown
    assert "1,008.00" in shown


def test_several_devices():
    """Operations are those of all devices, bytes those of each."""
    traffic = [Traffic("all-gather", "fsdp", 2, 1e6)]
    step = planned(name="train_step", devices=4, traffic=traffic)
    assert step.flops_seconds == pytest.approx(0.5)
    assert step.hbm_seconds == pytest.approx(1)
    shown = table.table(plan.Plan(card=CARDS["rtx4090"], programs=[step]))
    assert "on each of 4 devices" in shown
    assert "all-gather          fsdp" in shown
    assert step.to_json()["train_step_traffic"] == [{"kind": "all-gather", "axes": "fsdp", "count": 2, "bytes": 1e6}]


def test_phases():
    phases = [
        Phase(name="sample", resident_bytes=30, scratch_bytes=20, program="dual_step"),
        Phase(name="decode", resident_bytes=10, scratch_bytes=45, program="decode"),
    ]
    whole = plan.Plan(card=CARDS["rtx4090"], programs=[planned()], phases=phases, description=["in two halves"])
    values = whole.to_json()
    assert values["clip_peak_bytes"] == 55
    assert values["clip_phases"][0] == {"name": "sample", "resident_bytes": 30, "scratch_bytes": 20, "program": "dual_step"}
    assert "in two halves" in table.table(whole)


def test_programs_in_turn():
    """Operations and bytes of all runs; the memory of the phase."""
    phase = Phase(name="decode", resident_bytes=30, scratch_bytes=20, program="spatial")
    copies = planned(name="copies", kernels=[hbm.Kernels("elementwise", 1, 5e9), hbm.Kernels("copy", 2, 1e9)])
    whole = plan.in_turn("staged_decode", [(planned(), 2), (copies, 3)], phase)
    assert (whole.name, whole.total_bytes, whole.flops) == ("staged_decode", 50, 5 * planned().flops)
    assert whole.kernels == [
        hbm.Kernels("matrix product", 6, 1512e9),
        hbm.Kernels("elementwise", 11, 519e9),
        hbm.Kernels("copy", 6, 3e9),
    ]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A model with a small CLIP, which is quicker to plan."""
    clip = CLIPConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, projection_dim=16
    )
    folder = tmp_path_factory.mktemp("model")
    checkpoint.write_info(folder, checkpoint.Info(dataclasses.replace(benchmark_model.TINY, image_encoder=clip), "float32"))
    return folder


@pytest.fixture
def without_compiling(monkeypatch):
    """Every program needs 10 MB of scratch; nothing is compiled. Returns a list of the devices that plans are made for."""
    planned_for = []

    def plan_program(_, program):
        return planned(name=program.name, memory=ProgramMemory(10_000_000, bytes_of(program.args), 0))

    monkeypatch.setattr(compiling, "devices_of", lambda card, count=1: jax.devices()[:count])
    monkeypatch.setattr(plan.Planner, "_plan", plan_program)
    for module in (sampling, train_benchmark):
        # the real one needs cuDNN
        monkeypatch.setattr(module, "made_for", lambda device: contextlib.nullcontext(planned_for.append(device)))
    return planned_for


@pytest.mark.parametrize(
    ("arguments", "name", "phases"),
    [
        ([], "clip", ["encode", "sample", "decode"]),
        (["--train"], "train", ["encode", "step"]),
        (["--train", "--cache-latents"], "train", ["cache latents", "encode", "step"]),
    ],
)
def test_plan_of_a_run(arguments, name, phases, small_model, tmp_path, without_compiling, capsys):
    file = tmp_path / "numbers.json"
    line = ["--target", "rtx4060", "--model", str(small_model), *arguments]
    assert benchmark.main([*line, "--memory", "2", "--json", str(file)]) == 0
    values = json.loads(file.read_text())
    assert [phase["name"] for phase in values[f"{name}_phases"]] == phases
    peaks = [phase["resident_bytes"] + phase["scratch_bytes"] for phase in values[f"{name}_phases"]]
    assert values[f"{name}_peak_bytes"] == max(peaks) <= 2 * 2**30
    assert set(without_compiling) == {NVIDIA_GPU}
    lines = values[f"{name}_plan"]
    assert lines
    shown = capsys.readouterr().out
    assert all(line in shown for line in lines)
    assert benchmark.main([*line, "--memory", "0.001"]) == 2
    assert re.search(r"^error: .*memory.* at least .* GiB .*\n$", capsys.readouterr().err, re.MULTILINE)
