"""Join the processes of a run on one or several hosts, and exchange values between them outside the training step."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from svdjax.errors import InputError, one_line
from svdjax.parallel.cluster_plan import Place, place, plan, split_address, visible_gpus

WAIT = 300.0  # seconds to wait for process 0, as long as JAX waits for the other processes


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    initialize: Callable[..., None] = jax.distributed.initialize,
) -> None:
    """Join the other processes of the run, if there are any. Call this before any other use of JAX.

    Args:
        coordinator, num_processes, process_id: see `svdjax.parallel.cluster_plan.plan`.
        initialize: the function that joins them; tests replace it.

    Raises:
        InputError: see `svdjax.parallel.cluster_plan.plan`, or the other processes can't be reached.
    """
    chosen = plan(coordinator, num_processes, process_id, os.environ, visible_gpus(os.environ))
    if chosen.note is not None:
        print(chosen.note, file=sys.stderr, flush=True)
    if chosen.arguments is None:
        return
    if coordinator is not None:
        if process_id == 0:
            _check_port(coordinator)
        else:
            _wait_for(coordinator, WAIT)
    try:
        initialize(**chosen.arguments)
    except (RuntimeError, ValueError, OSError, KeyError) as e:  # raised by JAX and its detection of clusters
        raise InputError(f"{chosen.identity}: can't join the other processes: {one_line(e, 300)}") from e
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:  # the functions below need equal numbers
        counts = ", ".join(f"{count} of process {process}" for process, count in sorted(devices.items()))
        raise InputError(f"{counts}: the processes have different numbers of devices, expected as many in each")


def start_independently(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Place:
    """Find the place of this process among those of a run that share independent work. Call this before any other use of JAX.

    The processes are not connected, and the programs of each use its own devices only, so that one that dies stops no other.

    Args:
        coordinator, num_processes, process_id: see `svdjax.parallel.cluster_plan.place`.

    Raises:
        InputError: see `svdjax.parallel.cluster_plan.place`.
    """
    found = place(coordinator, num_processes, process_id, os.environ, visible_gpus(os.environ))
    if found.note is not None:
        print(found.note, file=sys.stderr, flush=True)
    if found.gpus is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, found.gpus)))
    return found


def _check_port(coordinator: str) -> None:
    """Refuse a port on which process 0 can't listen. JAX would end the process without a message."""
    try:
        socket.create_server(("", split_address(coordinator)[1])).close()
    except OSError as e:
        raise InputError(f"--coordinator {coordinator}: can't listen on that port: {e.strerror}") from e


def _wait_for(coordinator: str, seconds: float) -> None:
    """Wait until process 0 listens. JAX would abort the process with a long stack trace."""
    host, port = split_address(coordinator)
    end, reported = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), port), timeout=max(1, end - time.monotonic())).close()
            return
        except OSError as e:  # also an unknown host name: a cluster may resolve it only later
            if time.monotonic() >= end:
                raise InputError(f"--coordinator {coordinator}: no answer in {seconds:g} s: {e.strerror or e}") from e
            if not reported:
                print(f"waiting for process 0 at {coordinator}: {e.strerror or e}", file=sys.stderr, flush=True)
            reported = True
            time.sleep(min(1, seconds / 10))


def is_main() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes have called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_json(value: Any) -> Any:
    """Return process 0's value in every process. It must be serializable as JSON; the other processes' values are ignored."""
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = multihost_utils.broadcast_one_to_all(data if is_main() else np.zeros(size, np.uint8))
    return json.loads(np.asarray(data, np.uint8).tobytes())


def gather_json(value: Any) -> list[Any]:
    """The value of every process, in every process and in their order. It must be serializable as JSON."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def host_names() -> list[str]:
    """The host name of every process, in the order of the processes."""
    return gather_json(socket.gethostname())
