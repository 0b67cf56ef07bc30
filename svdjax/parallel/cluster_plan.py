"""Plan for joining the other processes of a run, from the options, the environment of Slurm or Kubernetes, and the GPUs."""

from __future__ import annotations

import glob
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.errors import InputError

OPTIONS = ("--coordinator", "--num-processes", "--process-id")


@dataclass(frozen=True)
class JoinPlan:
    """How this process joins the others.

    Attributes:
        identity: this process in error messages, such as `Slurm task 3 of 8`.
        arguments: arguments of `jax.distributed.initialize`, or None if the process runs alone.
        note: a line to print, or None.
    """

    identity: str = ""
    arguments: Mapping[str, Any] | None = None
    note: str | None = None


def plan(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str], gpus: int
) -> JoinPlan:
    """Decide how this process joins the others, in this order:

    1. the three options;
    2. Slurm, if the job has several tasks;
    3. Kubernetes, for a pod of an indexed job;
    4. otherwise the process runs alone.

    Args:
        coordinator: HOST:PORT on which process 0 listens.
        num_processes: number of processes.
        process_id: number of this process, from 0. All three options are given, or none.
        env: environment variables.
        gpus: number of GPUs that this process sees.

    Raises:
        InputError: options that are incomplete or out of range, Slurm tasks that can't share their GPUs equally, or a missing
            package for Kubernetes.
    """
    if any(option is not None for option in (coordinator, num_processes, process_id)):
        return _plan_from_options(coordinator, num_processes, process_id, env, gpus)
    if _slurm_tasks(env) > 1:
        return _plan_for_slurm(env, gpus)
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        return _plan_for_kubernetes(env)
    return JoinPlan()


@dataclass(frozen=True)
class Place:
    """This process among those that share independent work, without any connection between them.

    Attributes:
        shared: whether there may be other processes.
        identity: this process, such as `Slurm task 3 of 8`.
        gpus: the GPUs of this process among those that it sees; None for all.
        note: a line to print, or None.
    """

    shared: bool = False
    identity: str = "this process"
    gpus: Sequence[int] | None = None
    note: str | None = None


def place(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str], gpus: int
) -> Place:
    """The place of this process; it is found as by `plan`, but nothing needs to be connected.

    Args:
        coordinator: only checked, so that the options of training can be used.
        num_processes, process_id: both or none.
        env, gpus: see `plan`.

    Raises:
        InputError: options that are incomplete or out of range, or Slurm tasks that can't share their GPUs equally.
    """
    if coordinator is not None:
        split_address(coordinator)
    given = num_processes is not None or process_id is not None or coordinator is not None
    tasks = _slurm_tasks(env)
    in_slurm = tasks > 1 and "SLURM_STEP_NODELIST" in env
    own, note = _slurm_gpus(env, gpus) if in_slurm and gpus else (None, None)
    if given:
        if num_processes is None or process_id is None:
            missing = OPTIONS[1] if num_processes is None else OPTIONS[2]
            raise InputError(f"{missing} is missing: give both {OPTIONS[1]} and {OPTIONS[2]}, or none of the options")
        _check_numbers(num_processes, process_id)
        return Place(num_processes > 1, f"process {process_id} of {num_processes}", own, note)
    if in_slurm:
        return Place(True, f"Slurm task {env.get('SLURM_PROCID')} of {tasks}", own, note)
    if tasks > 1:
        return Place(note=plan(None, None, None, env, gpus).note)
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        return Place(True, f"Kubernetes pod {env['JOB_COMPLETION_INDEX']} of an indexed job")
    return Place()


def split_address(coordinator: str) -> tuple[str, int]:
    """Host and port of `--coordinator HOST:PORT`."""
    match = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(f"--coordinator {coordinator}: expected HOST:PORT, the port from 1 to 65535")
    return match[1], int(match[2])


def visible_gpus(env: Mapping[str, str]) -> int:
    """Number of NVIDIA GPUs that this process sees, counted without starting CUDA or JAX."""
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return len(glob.glob("/dev/nvidia[0-9]*"))
    names = [name.strip() for name in listed.split(",")]
    # CUDA ignores the list from the first invalid name on
    invalid = [i for i, name in enumerate(names) if not re.fullmatch(r"\d+|GPU-.+|MIG-.+", name)]
    return invalid[0] if invalid else len(names)


def _plan_from_options(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str], gpus: int
) -> JoinPlan:
    if coordinator is None or num_processes is None or process_id is None:
        values = dict(zip(OPTIONS, (coordinator, num_processes, process_id), strict=True))
        given = " and ".join(name for name, value in values.items() if value is not None)
        missing = " and ".join(name for name, value in values.items() if value is None)
        raise InputError(f"{given} without {missing}: give all three or none")
    split_address(coordinator)
    _check_numbers(num_processes, process_id)
    arguments: dict[str, Any] = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",  # under Slurm, JAX's detection would give each process one GPU of its node
    }
    note = None
    if _slurm_tasks(env) > 1 and "SLURM_STEP_NODELIST" in env:
        arguments["local_device_ids"], note = _slurm_gpus(env, gpus)
    return JoinPlan(f"process {process_id} of {num_processes} at {coordinator}", arguments, note)


def _check_numbers(num_processes: int, process_id: int) -> None:
    if num_processes < 1:
        raise InputError(f"--num-processes {num_processes}: expected 1 or more")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process-id {process_id}: expected 0 to {num_processes - 1} with --num-processes {num_processes}")


def _plan_for_slurm(env: Mapping[str, str], gpus: int) -> JoinPlan:
    tasks = _slurm_tasks(env)
    if "SLURM_STEP_NODELIST" not in env:  # the shell of a batch script, which has the variables of its job
        return JoinPlan(note=f"this process runs alone: the Slurm job has {tasks} tasks, but srun did not start this process")
    devices, note = _slurm_gpus(env, gpus)
    return JoinPlan(f"Slurm task {env.get('SLURM_PROCID')} of {tasks}", {"local_device_ids": devices}, note)


def _plan_for_kubernetes(env: Mapping[str, str]) -> JoinPlan:
    identity = f"Kubernetes pod {env['JOB_COMPLETION_INDEX']} of an indexed job"
    if not _installed("kubernetes"):
        raise InputError(
            f"{identity}: the package kubernetes, which JAX needs to find the other pods, is not installed: "
            f"pip install 'jax[k8s]', or give {', '.join(OPTIONS)}"
        )
    return JoinPlan(identity, {})


def _slurm_gpus(env: Mapping[str, str], gpus: int) -> tuple[list[int], str | None]:
    """The GPUs of this task among those that it sees, and a line to print if JAX would choose others.

    JAX gives task i of a node GPU i. This is right for one task per GPU. But a single task on a node would use only one of its
    GPUs, and if Slurm shows each task only its own GPUs, JAX would look for a GPU that isn't there.
    """
    local_id = _number(env, "SLURM_LOCALID") or 0
    tasks = _tasks_on_node(env)
    on_node = _number(env, "SLURM_GPUS_ON_NODE")
    if gpus == 0:
        return [local_id], None  # as JAX would choose; without GPUs it has no effect
    task = f"Slurm task {local_id} of the {tasks} on this node" if tasks > 1 else "the Slurm task of this node"
    all_its_own = tasks == 1 or gpus < (tasks if on_node is None else on_node)  # Slurm may show a task only some GPUs
    if all_its_own:
        note = f"{task} uses all {gpus} GPUs that it sees, not only GPU {local_id}"
        return list(range(gpus)), note if gpus > 1 else None
    share, rest = divmod(gpus, tasks)
    if rest or not share:
        divisors = [n for n in range(1, gpus + 1) if gpus % n == 0]
        raise InputError(
            f"{tasks} Slurm tasks on a node with {gpus} GPU{'s' * (gpus > 1)}: "
            f"expected one of {divisors} tasks per node, for equal shares"
        )
    own = list(range(local_id * share, (local_id + 1) * share))
    return own, f"{task} uses GPUs {own}, its share of {gpus}" if share > 1 else None


def _slurm_tasks(env: Mapping[str, str]) -> int:
    return _number(env, "SLURM_NTASKS") or _number(env, "SLURM_NPROCS") or 1


def _tasks_on_node(env: Mapping[str, str]) -> int:
    """From `SLURM_STEP_TASKS_PER_NODE`, such as `4(x2),3`: four tasks on each of two nodes, three on the next."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for count, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(nodes or 1)
    node = _number(env, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else counts[-1]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "")
    return int(value) if re.fullmatch(r"\d+", value, re.ASCII) else None
