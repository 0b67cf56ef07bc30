"""Starting one process of a run on one host or several, and what processes tell each other outside the step."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from svdjax.errors import InputError

WAIT = 300.0  # seconds for process 0 to appear, as long as JAX waits for the others
_EXPLICIT = ("--coordinator", "--num-processes", "--process-id")


@dataclass(frozen=True)
class Start:
    """How this process joins the others.

    Attributes:
        how: what told, for messages.
        arguments: of `jax.distributed.initialize`, or None for a process that runs alone.
        note: a line to print, or None.
    """

    how: str = ""
    arguments: Mapping[str, Any] | None = None
    note: str | None = None


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    initialize: Callable[..., None] = jax.distributed.initialize,
) -> None:
    """Join the other processes of the run, if there are any. To be called before JAX is used for anything else.

    In this order: the three arguments; Slurm, for a task of several; Kubernetes, for a pod of an indexed job; else this
    process runs alone and nothing happens.

    Args:
        coordinator: HOST:PORT on which process 0 listens. All three or none are given.
        num_processes: how many processes there are.
        process_id: which of them this is, from 0.
        initialize: what joins.

    Raises:
        InputError: `plan`, or the others can't be reached.
    """
    chosen = plan(coordinator, num_processes, process_id, os.environ, visible_gpus(os.environ))
    if chosen.note is not None:
        print(chosen.note, file=sys.stderr, flush=True)
    if chosen.arguments is None:
        return
    if process_id == 0:
        _check_port(coordinator)
    elif process_id is not None:
        _wait_for(coordinator, WAIT)
    try:
        initialize(**chosen.arguments)
    except (RuntimeError, ValueError, OSError, KeyError) as e:  # as JAX and its cluster detection raise
        raise InputError(f"{chosen.how}: can't join the other processes: {' '.join(str(e).split())[:300]}") from e


def _check_port(coordinator: str) -> None:
    """Refuse a port that process 0 can't listen on: JAX would end the process without a word."""
    try:
        socket.create_server(("", int(coordinator.rsplit(":", 1)[1]))).close()
    except OSError as e:
        raise InputError(f"--coordinator {coordinator}: can't listen on that port: {e.strerror}") from e


def _wait_for(coordinator: str, seconds: float) -> None:
    """Wait until process 0 listens: JAX would abort the process if it didn't, with a page of addresses."""
    host, port = coordinator.rsplit(":", 1)
    end, said = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(1, end - time.monotonic())).close()
            return
        except OSError as e:  # an unknown name too: a cluster may learn it late
            if time.monotonic() >= end:
                raise InputError(f"--coordinator {coordinator}: no answer in {seconds:g} s: {e.strerror or e}") from e
            if not said:
                print(f"waiting for process 0 at {coordinator}: {e.strerror or e}", file=sys.stderr, flush=True)
            said = True
            time.sleep(min(1, seconds / 10))


def plan(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str], gpus: int
) -> Start:
    """What `start` does.

    Args:
        coordinator, num_processes, process_id: as of `start`.
        env: environment variables.
        gpus: how many GPUs this process sees.

    Raises:
        InputError: arguments that are incomplete or out of range, a Slurm task that can't have its GPUs, or a pod that can't
            find the others.
    """
    given = dict(zip(_EXPLICIT, (coordinator, num_processes, process_id), strict=True))
    if any(value is not None for value in given.values()):
        return _explicit(given, env, gpus)
    tasks = _number(env, "SLURM_NTASKS") or _number(env, "SLURM_NPROCS") or 1
    if tasks > 1:
        if "SLURM_STEP_NODELIST" not in env:  # a batch script's own shell, which has the variables of its job
            return Start(note=f"runs alone: Slurm's job has {tasks} tasks, but srun did not start this process")
        devices, note = _slurm_gpus(env, gpus)
        return Start(f"Slurm task {env.get('SLURM_PROCID')} of {tasks}", {"local_device_ids": devices}, note)
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        how = f"Kubernetes pod {env['JOB_COMPLETION_INDEX']} of an indexed job"
        if not _installed("kubernetes"):
            raise InputError(
                f"{how}: the package kubernetes, by which JAX finds the other pods, is not installed: "
                f"pip install 'jax[k8s]', or give {', '.join(_EXPLICIT)}"
            )
        return Start(how, {})
    return Start()


def _explicit(given: Mapping[str, Any], env: Mapping[str, str], gpus: int) -> Start:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        there = [name for name, value in given.items() if value is not None]
        raise InputError(f"{' and '.join(there)} without {' and '.join(missing)}: give all three or none")
    coordinator, num_processes, process_id = given.values()
    match = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(f"--coordinator {coordinator}: expected HOST:PORT, the port from 1 to 65535")
    if num_processes < 1:
        raise InputError(f"--num-processes {num_processes}: expected 1 or more")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process-id {process_id}: expected 0 to {num_processes - 1}, as --num-processes is {num_processes}")
    arguments = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",  # under Slurm it would give each process one GPU of its node
    }
    note = None
    if (_number(env, "SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in env:
        arguments["local_device_ids"], note = _slurm_gpus(env, gpus)
    return Start(f"process {process_id} of {num_processes} at {coordinator}", arguments, note)


def _slurm_gpus(env: Mapping[str, str], gpus: int) -> tuple[list[int], str | None]:
    """The GPUs of this task, of those it sees, and a line to print where JAX's own choice is not followed.

    JAX gives task i of a node the i-th GPU: right for one task a GPU, but a lone task of a node would use one GPU of
    several, and a task that Slurm shows only its own GPUs would look for one that isn't there.
    """
    local = _number(env, "SLURM_LOCALID") or 0
    tasks = _tasks_on_node(env)
    on_node = _number(env, "SLURM_GPUS_ON_NODE")
    if gpus == 0:
        return [local], None  # as JAX does; nothing is looked up without GPUs
    own = list(range(gpus))
    who = f"Slurm task {local} of the {tasks} on this node" if tasks > 1 else "the Slurm task of this node"
    if tasks == 1 or (on_node is not None and gpus < on_node) or (on_node is None and gpus < tasks):
        return own, f"{who} uses all {gpus} GPUs it sees, not GPU {local} alone" if gpus > 1 else None
    share, rest = divmod(gpus, tasks)
    if rest or not share:
        fit = [n for n in range(1, gpus + 1) if gpus % n == 0]
        raise InputError(
            f"{tasks} Slurm tasks on a node with {gpus} GPU{'s' * (gpus > 1)}: expected one of {fit} tasks a node, equal shares"
        )
    own = own[local * share : (local + 1) * share]
    return own, f"{who} uses GPUs {own}, its share of {gpus}" if share > 1 else None


def _tasks_on_node(env: Mapping[str, str]) -> int:
    """From `SLURM_STEP_TASKS_PER_NODE`, such as `4(x2),3`: four tasks on each of two nodes, three on the next."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for count, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(nodes or 1)
    node = _number(env, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else counts[-1]


def visible_gpus(env: Mapping[str, str]) -> int:
    """How many NVIDIA GPUs this process sees, found without starting CUDA or JAX."""
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return len(glob.glob("/dev/nvidia[0-9]*"))
    names = [name.strip() for name in listed.split(",")]
    # CUDA stops at the first that is not valid
    wrong = [i for i, name in enumerate(names) if not re.fullmatch(r"\d+|GPU-.+|MIG-.+", name)]
    return wrong[0] if wrong else len(names)


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "")
    return int(value) if re.fullmatch(r"\d+", value, re.ASCII) else None


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for all processes, which must call it with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_json(value: Any) -> Any:
    """Process 0's value, anything that JSON can hold, in every process; the others' is not looked at."""
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = multihost_utils.broadcast_one_to_all(data if is_main() else np.zeros(size, np.uint8))
    return json.loads(np.asarray(data, np.uint8).tobytes())


def host_names() -> list[str]:
    """The name of every process's host, in the order of processes."""
    if jax.process_count() == 1:
        return [socket.gethostname()]
    name = np.frombuffer(socket.gethostname().encode()[:256].ljust(256, b"\0"), np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(name)]
