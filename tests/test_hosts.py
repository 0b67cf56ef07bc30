"""Starting a run on several hosts: what is decided from arguments and environments, and two real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from svdjax.errors import InputError
from train import hosts
from train.hosts import Start, plan, visible_gpus

# What Slurm sets for the second of two nodes, one task on each.
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
# and for the last of eight tasks, four on each node
EIGHT = SLURM | {
    "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "7",
    "SLURM_LOCALID": "3",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("env", "gpus"),
    [
        ({}, 0),
        ({}, 8),
        (SLURM | {"SLURM_NTASKS": "1"}, 4),  # a lone task: all GPUs are seen without initialising
        ({"SLURM_JOB_ID": "77"}, 4),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 4),  # a pod, but not one of several
    ],
)
def test_alone(env, gpus):
    assert plan(None, None, None, env, gpus) == Start()


def test_a_batch_script_without_srun_runs_alone_and_says_so():
    env = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    found = plan(None, None, None, env, 4)
    assert found.arguments is None
    assert found.note == "runs alone: Slurm's job has 8 tasks, but srun did not start this process"


@pytest.mark.parametrize(
    ("env", "gpus", "ids", "note"),
    [
        # one task a node (maxtext#3433): JAX would take GPU 0 alone
        (SLURM, 8, list(range(8)), "the Slurm task of this node uses all 8 GPUs it sees, not GPU 0 alone"),
        (
            SLURM | {"SLURM_GPUS_ON_NODE": "4"},
            4,
            [0, 1, 2, 3],
            "the Slurm task of this node uses all 4 GPUs it sees, not GPU 0 alone",
        ),
        (SLURM, 1, [0], None),
        (SLURM, 0, [0], None),
        # as many tasks as GPUs, all seen by all: one each
        (EIGHT, 4, [3], None),
        (EIGHT | {"SLURM_GPUS_ON_NODE": "4"}, 4, [3], None),
        (EIGHT, 0, [3], None),
        # --gpus-per-task: each task sees its own alone, the first of which is 0
        (EIGHT | {"SLURM_GPUS_ON_NODE": "4"}, 1, [0], None),
        (EIGHT, 1, [0], None),
        (
            EIGHT | {"SLURM_GPUS_ON_NODE": "8"},
            2,
            [0, 1],
            "Slurm task 3 of the 4 on this node uses all 2 GPUs it sees, not GPU 3 alone",
        ),
        # more GPUs than tasks, all seen by all
        (
            EIGHT | {"SLURM_GPUS_ON_NODE": "8"},
            8,
            [6, 7],
            "Slurm task 3 of the 4 on this node uses GPUs [6, 7], its share of 8",
        ),
        # nodes with different numbers of tasks
        (
            SLURM | {"SLURM_NTASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"},
            2,
            [0, 1],
            "the Slurm task of this node uses all 2 GPUs it sees, not GPU 0 alone",
        ),
    ],
)
def test_slurm(env, gpus, ids, note):
    found = plan(None, None, None, env, gpus)
    assert found.arguments == {"local_device_ids": ids}
    assert found.note == note
    assert found.how == f"Slurm task {env['SLURM_PROCID']} of {env['SLURM_NTASKS']}"


@pytest.mark.parametrize(("gpus", "fit"), [(6, "[1, 2, 3, 6]"), (1, "[1]")])
def test_slurm_shares_that_are_not_equal(gpus, fit):
    env = EIGHT | {"SLURM_GPUS_ON_NODE": str(gpus)}
    with pytest.raises(InputError) as e:
        plan(None, None, None, env, gpus)
    s = "s" if gpus > 1 else ""
    assert str(e.value) == f"4 Slurm tasks on a node with {gpus} GPU{s}: expected one of {fit} tasks a node, equal shares"


def test_slurm_variables_of_older_versions():
    env = {name: value for name, value in SLURM.items() if name != "SLURM_NTASKS"} | {"SLURM_NPROCS": "2"}
    assert plan(None, None, None, env, 2).arguments == {"local_device_ids": [0, 1]}


def test_kubernetes(monkeypatch):
    monkeypatch.setattr(hosts, "_installed", lambda package: package == "kubernetes")
    assert plan(None, None, None, POD, 4) == Start("Kubernetes pod 2 of an indexed job", {})
    monkeypatch.setattr(hosts, "_installed", lambda package: False)
    with pytest.raises(InputError) as e:
        plan(None, None, None, POD, 4)
    assert str(e.value) == (
        "Kubernetes pod 2 of an indexed job: the package kubernetes, by which JAX finds the other pods, is not installed: "
        "pip install 'jax[k8s]', or give --coordinator, --num-processes, --process-id"
    )


EXPLICIT = {
    "coordinator_address": "a:1234",
    "num_processes": 4,
    "process_id": 3,
    "cluster_detection_method": "deactivate",
}


def test_explicit():
    assert plan("a:1234", 4, 3, POD, 8) == Start("process 3 of 4 at a:1234", EXPLICIT)
    under_slurm = plan("a:1234", 4, 3, SLURM, 2)
    assert under_slurm.arguments == EXPLICIT | {"local_device_ids": [0, 1]}
    assert plan("[::1]:1234", 1, 0, {}, 0).arguments["coordinator_address"] == "[::1]:1234"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a:1", None, None), "--coordinator without --num-processes and --process-id: give all three or none"),
        ((None, 2, 0), "--num-processes and --process-id without --coordinator: give all three or none"),
        (("a:1", 2, None), "--coordinator and --num-processes without --process-id: give all three or none"),
        (("a", 2, 0), "--coordinator a: expected HOST:PORT, the port from 1 to 65535"),
        (("a:", 2, 0), "--coordinator a:: expected HOST:PORT, the port from 1 to 65535"),
        ((":80", 2, 0), "--coordinator :80: expected HOST:PORT, the port from 1 to 65535"),
        (("a:65536", 2, 0), "--coordinator a:65536: expected HOST:PORT, the port from 1 to 65535"),
        (("a:1", 0, 0), "--num-processes 0: expected 1 or more"),
        (("a:1", 2, 2), "--process-id 2: expected 0 to 1, as --num-processes is 2"),
        (("a:1", 2, -1), "--process-id -1: expected 0 to 1, as --num-processes is 2"),
    ],
)
def test_explicit_refused(given, message):
    with pytest.raises(InputError) as e:
        plan(*given, {}, 0)
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("listed", "count"),
    [("0,1,2", 3), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("0,-1,2", 1), ("GPU-8932f937-d72c,MIG-ab", 2), ("3", 1)],
)
def test_visible_gpus(listed, count):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": listed}) == count


def test_visible_gpus_without_a_list(monkeypatch):
    monkeypatch.setattr(hosts.glob, "glob", lambda pattern: [f"/dev/nvidia{i}" for i in range(4)])
    assert visible_gpus({}) == 4


def test_start_passes_the_plan_on(monkeypatch, capsys):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    calls = []
    hosts.start(initialize=lambda **arguments: calls.append(arguments))
    assert calls == [{"local_device_ids": [0, 1]}]
    assert capsys.readouterr().err == "the Slurm task of this node uses all 2 GPUs it sees, not GPU 0 alone\n"


def test_a_coordinator_that_does_not_answer(monkeypatch, capsys):
    monkeypatch.setattr(hosts, "WAIT", 0.2)
    with socket.socket() as s:
        s.bind(("localhost", 0))  # not listening
        address = f"localhost:{s.getsockname()[1]}"
        with pytest.raises(InputError) as e:
            hosts.start(address, 2, 1, initialize=None)
        assert str(e.value) == f"--coordinator {address}: no answer in 0.2 s: Connection refused"
        assert capsys.readouterr().err == f"waiting for process 0 at {address}: Connection refused\n"
        s.listen()
        with pytest.raises(InputError, match=f"^--coordinator {address}: can't listen on that port: Address already in use"):
            hosts.start(address, 2, 0, initialize=None)
        calls = []
        hosts.start(address, 2, 1, initialize=lambda **arguments: calls.append(arguments["process_id"]))
        assert calls == [1]


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def test_start_reports_in_one_line():
    address = free_address()

    def initialize(**arguments):
        raise RuntimeError("DEADLINE_EXCEEDED:\n  no answer")

    with pytest.raises(InputError) as e:
        hosts.start(address, 2, 0, initialize=initialize)
    assert str(e.value) == f"process 0 of 2 at {address}: can't join the other processes: DEADLINE_EXCEEDED: no answer"


def test_alone_nothing_special_happens(monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_NPROCS", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    hosts.start(initialize=None)
    assert hosts.is_main()
    hosts.barrier("here")
    value = {"a": (1, None)}
    assert hosts.broadcast_json(value) is value
    assert hosts.host_names() == [socket.gethostname()]


PROGRAM = textwrap.dedent(
    """
    import json, sys
    import jax, numpy as np
    from jax.sharding import PartitionSpec as P
    from svdjax.mesh import describe, make_mesh
    from svdjax.sharding import batch_sharding, sharding_of
    from train import hosts

    address, rank = sys.argv[1:]
    hosts.start(*([address, 2, int(rank)] if address else []))
    rank = jax.process_index()
    mesh = make_mesh("data=2,fsdp=2")
    told = hosts.broadcast_json({"resume": "step 7 ü", "rank": rank, "long": "x" * (1000 if rank == 0 else 3)})
    hosts.barrier("before")

    # each process gives its own two rows of a batch of four
    rows = np.arange(2 * 64, dtype=np.float32).reshape(2, 64) + 1000 * rank
    batch = jax.make_array_from_process_local_data(batch_sharding(mesh), rows, (4, 64))
    kernel = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(64, 32)
    where = sharding_of("ff.proj_in.kernel", kernel.shape, mesh)
    kernel = jax.make_array_from_callback(kernel.shape, where, lambda index, kernel=kernel: kernel[index])
    axes = ("data", "fsdp")
    total = jax.shard_map(lambda x: jax.lax.psum(x.sum(), axes), mesh=mesh, in_specs=P(axes), out_specs=P())
    loss = jax.jit(lambda x, k: ((x / 1000) @ k).sum())(batch, kernel)
    print(json.dumps({
        "processes": jax.process_count(), "local": jax.local_device_count(), "main": hosts.is_main(),
        "mesh": [[d.process_index for d in row] for row in mesh.devices[:, :, 0]],
        "line": describe(mesh, 4, hosts.host_names()), "as_hosts": describe(mesh, 4),
        "told": told, "sum": float(jax.jit(total)(batch)), "loss": float(loss),
        "shard": kernel.addressable_shards[0].data.shape,
    }))
    """
)


@pytest.fixture(scope="module", params=["explicit", "slurm"])
def two_processes(request) -> list[dict]:
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    address = free_address()
    if request.param == "slurm":  # two tasks on this host, found by JAX itself
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
    for rank, found in enumerate(two_processes):
        assert found["processes"] == 2
        assert found["local"] == 2
        assert found["main"] == (rank == 0)
        assert found["mesh"] == [[0, 0], [1, 1]]  # data crosses processes, fsdp lies within
        assert found["line"] == f"1 host, 2 processes, {line}, global batch 4"
        assert found["as_hosts"] == f"2 hosts, {line} (data across hosts), global batch 4"
        assert found["told"] == {"resume": "step 7 ü", "rank": 0, "long": "x" * 1000}
        assert found["sum"] == rows.sum()
        # 64 products of up to 1 each, in float32
        np.testing.assert_allclose(found["loss"], (rows / 1000 @ kernel).sum(), rtol=1e-5)
        assert found["shard"] == [32, 32]
