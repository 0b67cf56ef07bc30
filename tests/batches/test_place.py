"""The place of a process among those that share pairs: options, Slurm, Kubernetes, and nothing that connects them."""

from __future__ import annotations

import pytest
from hosts import EIGHT, SLURM

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.parallel.cluster_plan import Place, place

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}


def test_alone():
    assert place(None, None, None, {}, 4) == Place()
    assert not place(None, 1, 0, {}, 4).shared
    shell = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    found = place(None, None, None, shell, 4)
    assert (found.shared, found.gpus) == (False, None)
    assert "srun did not start this process" in str(found.note)


def test_options():
    found = place(None, 4, 2, {}, 8)
    assert (found.shared, found.identity, found.gpus, found.note) == (True, "process 2 of 4", None, None)
    assert place("host:1234", 4, 2, {}, 8) == found


def test_slurm():
    """One task a node uses all GPUs of its node; four share the eight of theirs; without GPUs nothing is chosen."""
    found = place(None, None, None, SLURM, 8)
    assert (found.shared, found.identity, found.gpus) == (True, "Slurm task 1 of 2", list(range(8)))
    found = place(None, None, None, EIGHT | {"SLURM_GPUS_ON_NODE": "8"}, 8)
    assert (found.identity, found.gpus) == ("Slurm task 7 of 8", [6, 7])
    assert place(None, None, None, EIGHT, 0).gpus is None
    assert place("host:1234", 8, 7, EIGHT | {"SLURM_GPUS_ON_NODE": "8"}, 8).gpus == [6, 7]
    with pytest.raises(InputError, match="4 Slurm tasks on a node with 6 GPUs"):
        place(None, None, None, EIGHT | {"SLURM_GPUS_ON_NODE": "6"}, 6)


def test_kubernetes_needs_no_package(monkeypatch):
    monkeypatch.setattr("svdjax.parallel.cluster_plan._installed", lambda package: False)
    found = place(None, None, None, POD, 2)
    assert (found.shared, found.identity) == (True, "Kubernetes pod 3 of an indexed job")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 4, None), "--process-id is missing: give both --num-processes and --process-id"),
        ((None, None, 1), "--num-processes is missing"),
        (("host:1", None, None), "--num-processes is missing"),
        ((None, 4, 4), "--process-id 4: expected 0 to 3"),
        ((None, 0, 0), "--num-processes 0: expected 1 or more"),
        (("host", 4, 0), "--coordinator host: expected HOST:PORT"),
    ],
)
def test_refused(given, message):
    coordinator, num_processes, process_id = given
    with pytest.raises(InputError, match=message):
        place(coordinator, num_processes, process_id, {}, 0)


def test_only_its_own_gpus_are_visible(monkeypatch, capsys):
    chosen = {}
    monkeypatch.setattr(cluster.jax.config, "update", chosen.__setitem__)
    monkeypatch.setattr(cluster, "visible_gpus", lambda env: 8)
    monkeypatch.setattr(cluster.jax.distributed, "initialize", None)  # the processes are not connected
    for name, value in (EIGHT | {"SLURM_GPUS_ON_NODE": "8"}).items():
        monkeypatch.setenv(name, value)
    assert cluster.start_independently(None, None, None).shared
    assert chosen == {"jax_cuda_visible_devices": "6,7"}
    assert "uses GPUs [6, 7], its share of 8" in capsys.readouterr().err
