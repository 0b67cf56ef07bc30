"""The plan to join the processes of a run, from options and environments."""

from __future__ import annotations

import pytest
from hosts import EIGHT, SLURM

from svdjax.errors import InputError
from svdjax.parallel import cluster_plan
from svdjax.parallel.cluster_plan import JoinPlan, plan, visible_gpus

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("env", "gpus"),
    [
        ({}, 0),
        ({}, 8),
        (SLURM | {"SLURM_NTASKS": "1"}, 4),  # a single task: JAX finds all GPUs without initialization
        ({"SLURM_JOB_ID": "77"}, 4),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 4),  # a pod, but not of an indexed job
    ],
)
def test_alone(env, gpus):
    assert plan(None, None, None, env, gpus) == JoinPlan()


def test_batch_script_without_srun_runs_alone():
    env = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    result = plan(None, None, None, env, 4)
    assert result.arguments is None
    assert result.note == "this process runs alone: the Slurm job has 8 tasks, but srun did not start this process"


@pytest.mark.parametrize(
    ("env", "gpus", "ids", "note"),
    [
        # one task per node (maxtext#3433): JAX would use only GPU 0
        (SLURM, 8, list(range(8)), "the Slurm task of this node uses all 8 GPUs that it sees, not only GPU 0"),
        (
            SLURM | {"SLURM_GPUS_ON_NODE": "4"},
            4,
            [0, 1, 2, 3],
            "the Slurm task of this node uses all 4 GPUs that it sees, not only GPU 0",
        ),
        (SLURM, 1, [0], None),
        (SLURM, 0, [0], None),
        # as many tasks as GPUs, and every task sees all: one each
        (EIGHT, 4, [3], None),
        (EIGHT | {"SLURM_GPUS_ON_NODE": "4"}, 4, [3], None),
        (EIGHT, 0, [3], None),
        # --gpus-per-task: each task sees only its own, numbered from 0
        (EIGHT | {"SLURM_GPUS_ON_NODE": "4"}, 1, [0], None),
        (EIGHT, 1, [0], None),
        (
            EIGHT | {"SLURM_GPUS_ON_NODE": "8"},
            2,
            [0, 1],
            "Slurm task 3 of the 4 on this node uses all 2 GPUs that it sees, not only GPU 3",
        ),
        # more GPUs than tasks, and every task sees all
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
            "the Slurm task of this node uses all 2 GPUs that it sees, not only GPU 0",
        ),
    ],
)
def test_slurm(env, gpus, ids, note):
    result = plan(None, None, None, env, gpus)
    assert result.arguments == {"local_device_ids": ids}
    assert result.note == note
    assert result.identity == f"Slurm task {env['SLURM_PROCID']} of {env['SLURM_NTASKS']}"


@pytest.mark.parametrize(("gpus", "fit"), [(6, "[1, 2, 3, 6]"), (1, "[1]")])
def test_slurm_shares_that_are_not_equal(gpus, fit):
    env = EIGHT | {"SLURM_GPUS_ON_NODE": str(gpus)}
    with pytest.raises(InputError) as e:
        plan(None, None, None, env, gpus)
    s = "s" if gpus > 1 else ""
    assert str(e.value) == f"4 Slurm tasks on a node with {gpus} GPU{s}: expected one of {fit} tasks per node, for equal shares"


def test_slurm_variables_of_older_versions():
    env = {name: value for name, value in SLURM.items() if name != "SLURM_NTASKS"} | {"SLURM_NPROCS": "2"}
    assert plan(None, None, None, env, 2).arguments == {"local_device_ids": [0, 1]}


def test_kubernetes(monkeypatch):
    monkeypatch.setattr(cluster_plan, "_installed", lambda package: package == "kubernetes")
    assert plan(None, None, None, POD, 4) == JoinPlan("Kubernetes pod 2 of an indexed job", {})
    monkeypatch.setattr(cluster_plan, "_installed", lambda package: False)
    with pytest.raises(InputError) as e:
        plan(None, None, None, POD, 4)
    assert str(e.value) == (
        "Kubernetes pod 2 of an indexed job: the package kubernetes, which JAX needs to find the other pods, is not installed: "
        "pip install 'jax[k8s]', or give --coordinator, --num-processes, --process-id"
    )


EXPLICIT = {
    "coordinator_address": "a:1234",
    "num_processes": 4,
    "process_id": 3,
    "cluster_detection_method": "deactivate",
}


def test_explicit():
    assert plan("a:1234", 4, 3, POD, 8) == JoinPlan("process 3 of 4 at a:1234", EXPLICIT)
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
        (("a:1", 2, 2), "--process-id 2: expected 0 to 1 with --num-processes 2"),
        (("a:1", 2, -1), "--process-id -1: expected 0 to 1 with --num-processes 2"),
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
    monkeypatch.setattr(cluster_plan.glob, "glob", lambda pattern: [f"/dev/nvidia{i}" for i in range(4)])
    assert visible_gpus({}) == 4
