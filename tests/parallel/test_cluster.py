"""Joining the processes of a run: printed lines, errors, and two real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hosts import EIGHT, SLURM, free_address

from svdjax.errors import InputError
from svdjax.parallel import cluster


def test_start_initializes_jax_as_planned(monkeypatch, capsys):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    calls = []
    cluster.start(initialize=lambda **arguments: calls.append(arguments))
    assert calls == [{"local_device_ids": [0, 1]}]
    assert capsys.readouterr().err == "the Slurm task of this node uses all 2 GPUs that it sees, not only GPU 0\n"


def test_coordinator_that_does_not_answer(monkeypatch, capsys):
    monkeypatch.setattr(cluster, "WAIT", 0.2)
    with socket.socket() as s:
        s.bind(("localhost", 0))  # not listening
        address = f"localhost:{s.getsockname()[1]}"
        with pytest.raises(InputError) as e:
            cluster.start(address, 2, 1, initialize=None)
        assert str(e.value) == f"--coordinator {address}: no answer in 0.2 s: Connection refused"
        assert capsys.readouterr().err == f"waiting for process 0 at {address}: Connection refused\n"
        s.listen()
        with pytest.raises(InputError, match=f"^--coordinator {address}: can't listen on that port: Address already in use"):
            cluster.start(address, 2, 0, initialize=None)
        calls = []
        cluster.start(address, 2, 1, initialize=lambda **arguments: calls.append(arguments["process_id"]))
        assert calls == [1]


def test_error_of_jax_becomes_one_line():
    address = free_address()

    def initialize(**arguments):
        raise RuntimeError("DEADLINE_EXCEEDED:\n  no answer")

    with pytest.raises(InputError) as e:
        cluster.start(address, 2, 0, initialize=initialize)
    assert str(e.value) == f"process 0 of 2 at {address}: can't join the other processes: DEADLINE_EXCEEDED: no answer"


def test_single_process(monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_NPROCS", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    cluster.start(initialize=None)
    assert cluster.is_main()
    cluster.barrier("here")
    value = {"a": (1, None)}
    assert cluster.broadcast_json(value) is value
    assert cluster.host_names() == [socket.gethostname()]


PROGRAM = textwrap.dedent(
    """
    import json, sys
    import jax, numpy as np
    from jax.sharding import PartitionSpec as P
    from svdjax.parallel import cluster
    from svdjax.parallel.mesh import describe, make_mesh
    from svdjax.parallel.sharding import batch_sharding, sharding_of

    address, rank = sys.argv[1:]
    cluster.start(*([address, 2, int(rank)] if address else []))
    rank = jax.process_index()
    mesh = make_mesh("data=2,fsdp=2")
    received = cluster.broadcast_json({"resume": "step 7 ü", "rank": rank, "long": "x" * (1000 if rank == 0 else 3)})
    cluster.barrier("before")

    # each process has two rows of a batch of four
    rows = np.arange(2 * 64, dtype=np.float32).reshape(2, 64) + 1000 * rank
    batch = jax.make_array_from_process_local_data(batch_sharding(mesh), rows, (4, 64))
    kernel = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(64, 32)
    where = sharding_of("ff.proj_in.kernel", kernel.shape, mesh)
    kernel = jax.make_array_from_callback(kernel.shape, where, lambda index, kernel=kernel: kernel[index])
    axes = ("data", "fsdp")
    total = jax.shard_map(lambda x: jax.lax.psum(x.sum(), axes), mesh=mesh, in_specs=P(axes), out_specs=P())
    loss = jax.jit(lambda x, k: ((x / 1000) @ k).sum())(batch, kernel)
    print(json.dumps({
        "processes": jax.process_count(), "local": jax.local_device_count(), "main": cluster.is_main(),
        "mesh": [[d.process_index for d in row] for row in mesh.devices[:, :, 0]],
        "line": describe(mesh, 4, cluster.host_names()), "as_hosts": describe(mesh, 4),
        "received": received, "sum": float(jax.jit(total)(batch)), "loss": float(loss),
        "shard": kernel.addressable_shards[0].data.shape,
    }))
    """
)


@pytest.fixture(scope="module", params=["explicit", "slurm"])
def two_processes(request) -> list[dict]:
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    address = free_address()
    if request.param == "slurm":  # two tasks on this host, detected by JAX
        address, port = "", address.split(":")[1]
        env |= EIGHT | {"SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost"}
        env |= {"SLURM_NODEID": "0", "JAX_COORDINATOR_PORT": port}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, rank], env=env | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}, **pipes
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_two_processes_of_two_devices(two_processes):
    line = "4 devices (cpu), mesh data=2 fsdp=2"
    rows = np.arange(128.0).reshape(2, 64)
    rows = np.concatenate([rows, rows + 1000])
    kernel = np.linspace(-1, 1, 64 * 32).reshape(64, 32)
    for rank, result in enumerate(two_processes):
        assert result["processes"] == 2
        assert result["local"] == 2
        assert result["main"] == (rank == 0)
        assert result["mesh"] == [[0, 0], [1, 1]]  # data crosses processes, fsdp lies within
        assert result["line"] == f"1 host, 2 processes, {line}, global batch 4"
        assert result["as_hosts"] == f"2 hosts, {line} (data across hosts), global batch 4"
        assert result["received"] == {"resume": "step 7 ü", "rank": 0, "long": "x" * 1000}
        assert result["sum"] == rows.sum()
        # 64 products of up to 1 each, in float32
        np.testing.assert_allclose(result["loss"], (rows / 1000 @ kernel).sum(), rtol=1e-5)
        assert result["shard"] == [32, 32]
