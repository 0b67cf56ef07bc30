"""Compiling for GPUs that are not present, where the extra `cuda` is installed."""

from __future__ import annotations

import json
import re

import benchmark_model
import jax
import jax.numpy as jnp
import pytest
from gpu_compiler import has_gpu_compiler
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sample import benchmark
from sample.planning import collectives, compiling, hbm
from sample.planning.plan import Planner
from sample.planning.targets import CARDS
from svdjax.devices.target import target
from svdjax.memory.programs import Program
from svdjax.parallel.mesh import make_mesh

pytestmark = pytest.mark.skipif(not has_gpu_compiler(), reason="the extra cuda is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return benchmark_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("name", CARDS)
def test_compile_a_small_program(name, capsys):
    """Traced for a GPU: its kernels, its memory, its operations."""
    kinds = []

    def fn(x, w):
        kinds.append(target())
        return jnp.tanh(x @ w)

    x, w = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((4096, 1024), (1024, 2048)))
    program = Program(name="small", fn=fn, args=(x, w))
    (device,) = compiling.devices_of(CARDS[name])
    compiled = compiling.compile_for(device, program)
    assert kinds[0].nvidia
    assert not target().nvidia
    assert compiled.flops == 2 * 4096 * 1024 * 2048
    arguments, results = 2 * (4096 * 1024 + 1024 * 2048), 2 * 4096 * 2048
    memory = Planner(CARDS[name], [device])(program)
    assert "compiling small for NVIDIA" in capsys.readouterr().err
    assert (memory.argument_bytes, memory.result_bytes) == (arguments, results)
    assert arguments + results <= hbm.total(hbm.moved(compiled.program)) <= arguments + 3 * results


def test_several_devices():
    """A sum over rows that are divided over the devices; the number without a sharding is on all of them."""
    devices = compiling.devices_of(CARDS["h100"], 4)
    mesh = make_mesh({"data": 4}, devices)

    def shape(*size, axes=()):
        return jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))

    args = shape(64, 1024, axes=("data",)), shape(1024, 1024), jax.ShapeDtypeStruct((), jnp.float32)
    program = Program(name="sum", fn=lambda x, w, scale: jnp.sum(x @ w * scale), args=args)
    compiled = compiling.compile_for(devices[0], program)
    assert compiled.flops == 2 * 64 * 1024 * 1024
    (row,) = collectives.traffic(compiled.program, mesh)
    assert (row.kind, row.axes, row.bytes) == ("all-reduce", "data", 2 * 3 / 4 * 4)


@pytest.mark.heavy
def test_the_command(model, tmp_path, capsys):
    file, texts = tmp_path / "numbers.json", tmp_path / "texts"
    arguments = ["--target", "rtx4060", "--model", str(model), "--json", str(file), "--hlo", str(texts)]
    assert benchmark.main(arguments) == 0
    values = json.loads(file.read_text())
    names = {"encode", "dual_step", "decode", "staged_decode"}
    written = {re.sub(r"_\d+$", "", path.stem) for path in texts.iterdir()}
    assert written == names - {"staged_decode"} | {"spatial", "temporal", "finish"}
    for name in names:
        if name != "staged_decode":
            assert hbm.total(hbm.moved((texts / f"{name}.txt").read_text())) == values[f"{name}_hbm_bytes"]
        assert values[f"{name}_hbm_bytes"] > 0
        for key in ("scratch_bytes", "argument_bytes", "flops", "hbm_floor_seconds"):
            assert values[f"{name}_{key}"] > 0
    assert (values["platform"], values["compile_only"]) == ("gpu", True)
    assert "NVIDIA GeForce RTX 4060, compile target only" in capsys.readouterr().out


@pytest.mark.heavy
def test_training_on_a_mesh(model, tmp_path):
    file = tmp_path / "numbers.json"
    arguments = ["--target", "h100", "--model", str(model), "--train", "--mesh", "data=2,fsdp=2", "--json", str(file)]
    assert benchmark.main(arguments) == 0
    values = json.loads(file.read_text())
    assert values["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert {"all-gather", "all-reduce"} <= {row["kind"] for row in values["train_step_traffic"]}
    assert values["train_step_hbm_bytes"] > values["train_step_argument_bytes"]
