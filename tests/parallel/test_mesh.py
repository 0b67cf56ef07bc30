"""`--mesh`: accepted and refused texts, the order of devices, batch sizes, the description of a run."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from svdjax.errors import InputError
from svdjax.parallel.mesh import AXES, DEFAULT, check_batch, describe, make_mesh, mesh_sizes, parse_mesh


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (DEFAULT, {"data": -1}),
        ("data=2,fsdp=4", {"data": 2, "fsdp": 4}),
        ("data:2, fsdp : 4", {"data": 2, "fsdp": 4}),
        (" fsdp=-1 ,tensor = 2 ", {"fsdp": -1, "tensor": 2}),
    ],
)
def test_accepted(text, sizes):
    assert parse_mesh(text) == sizes
    assert list(parse_mesh(text)) == list(sizes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--mesh : '' is not AXIS=NUMBER, as in data=2,fsdp=4"),
        ("data", "--mesh data: 'data' is not AXIS=NUMBER, as in data=2,fsdp=4"),
        ("data=2,", "--mesh data=2,: '' is not AXIS=NUMBER, as in data=2,fsdp=4"),
        ("data=2 fsdp=4", "--mesh data=2 fsdp=4: data is '2 fsdp=4', expected a whole number"),
        ("data=2,model=4", "--mesh data=2,model=4: unknown axis 'model', expected data, fsdp, tensor"),
        ("context=2", "--mesh context=2: axis context is not implemented yet, expected data, fsdp, tensor"),
        ("data=2,data=4", "--mesh data=2,data=4: axis data is given twice, 2 and 4"),
        ("data=two", "--mesh data=two: data is 'two', expected a whole number"),
        ("data=1.5", "--mesh data=1.5: data is '1.5', expected a whole number"),
        ("data=", "--mesh data=: data is '', expected a whole number"),
        ("data=0", "--mesh data=0: data is 0, expected 1 or more, or -1 for the remaining devices"),
        ("data=-2", "--mesh data=-2: data is -2, expected 1 or more, or -1 for the remaining devices"),
        ("data=-1,fsdp=-1", "--mesh data=-1,fsdp=-1: data and fsdp are both -1, expected at most one"),
        ("data=" + "9" * 5000, "expected a whole number"),
    ],
)
def test_refused(text, message):
    with pytest.raises(InputError) as e:
        parse_mesh(text)
    assert str(e.value) == message or (len(text) > 100 and message in str(e.value))


@pytest.mark.parametrize(
    ("text", "devices", "sizes"),
    [
        ("data=-1", 8, {"data": 8}),
        ("data=-1", 1, {"data": 1}),
        ("data=-1,fsdp=4", 8, {"data": 2, "fsdp": 4}),
        ("fsdp=8,data=-1", 8, {"fsdp": 8, "data": 1}),
        ("data=2,fsdp=2,tensor=2", 8, {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
)
def test_sizes(text, devices, sizes):
    assert list(mesh_sizes(text, devices).items()) == list(sizes.items())


@pytest.mark.parametrize(
    ("text", "devices", "message"),
    [
        (
            "data=2,fsdp=3",
            8,
            "--mesh data=2,fsdp=3: data 2 x fsdp 3 = 6, expected 8 devices in total (-1 stands for the remaining devices)",
        ),
        ("fsdp=2", 1, "--mesh fsdp=2: fsdp 2 = 2, expected 1 device in total (-1 stands for the remaining devices)"),
        ("data=-1,fsdp=3", 8, "--mesh data=-1,fsdp=3: data can't be -1, because fsdp 3 = 3 does not divide 8 devices"),
        ("fsdp=16,data=-1", 8, "--mesh fsdp=16,data=-1: data can't be -1, because fsdp 16 = 16 does not divide 8 devices"),
    ],
)
def test_sizes_refused(text, devices, message):
    with pytest.raises(InputError) as e:
        mesh_sizes(text, devices)
    assert str(e.value) == message


@dataclass(frozen=True)
class Device:
    """The attributes of a device that a mesh uses."""

    id: int
    process_index: int
    slice_index: int = 0
    device_kind: str = "cpu"


def cluster(hosts: int, per_host: int, kind: str = "GPU") -> list[Device]:
    """Devices of several hosts, one process each, in a mixed order."""
    devices = [Device(h * per_host + i, h, h, kind) for h in range(hosts) for i in range(per_host)]
    return devices[1::2] + devices[::2]


def ids(mesh: jax.sharding.Mesh) -> list:
    return np.vectorize(lambda d: d.id)(mesh.devices).tolist()


def test_every_axis_is_there_and_automatic():
    mesh = make_mesh("data=-1")
    assert mesh.axis_names == AXES == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == (jax.device_count(), 1, 1)
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_the_first_axis_given_crosses_hosts():
    devices = cluster(2, 4)
    assert ids(make_mesh("data=2,fsdp=4", devices)) == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]
    # fsdp is given first: each host has one of its two parts
    assert ids(make_mesh("fsdp=2,data=4", devices)) == [[[0], [4]], [[1], [5]], [[2], [6]], [[3], [7]]]
    assert ids(make_mesh("data=2,tensor=2,fsdp=2", devices)) == [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    assert ids(make_mesh("fsdp=-1", devices)) == [[[i] for i in range(8)]]


def test_an_inner_axis_may_span_neighbouring_hosts():
    mesh = make_mesh("data=2,fsdp=4", cluster(4, 2))
    assert ids(mesh) == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]  # hosts 0 and 1, hosts 2 and 3
    assert describe(mesh, 8).endswith("mesh data=2 fsdp=4 (data and fsdp across hosts), global batch 8")


def test_devices_of_one_nvlink_domain_stay_together():
    """Processes 0 and 2 share a host, as with cyclic distribution of Slurm tasks."""
    devices = [Device(i, i, i % 2) for i in range(4)]
    assert ids(make_mesh("data=2,fsdp=2", devices)) == [[[0], [2]], [[1], [3]]]


def test_describe():
    one_host = [Device(i, 0) for i in range(8)]
    assert describe(make_mesh("data=2,fsdp=4", one_host), 8) == "1 host, 8 devices (cpu), mesh data=2 fsdp=4, global batch 8"
    assert describe(make_mesh("data=-1", one_host[:1]), 1) == "1 host, 1 device (cpu), mesh data=1, global batch 1"
    hosts = make_mesh("data=2,fsdp=4", cluster(2, 4, "NVIDIA H100 80GB HBM3"))
    line = "8 devices (NVIDIA H100 80GB HBM3), mesh data=2 fsdp=4 (data across hosts), global batch 16"
    assert describe(hosts, 16) == f"2 hosts, {line}"
    assert describe(hosts, 16, ["a", "b"]) == f"2 hosts, {line}"
    assert describe(hosts, 16, ["a", "a"]) == f"1 host, 2 processes, {line.replace(' (data across hosts)', '')}"


def test_batches():
    mesh = make_mesh("data=2,fsdp=4", cluster(2, 4))
    for batch, accumulate in ((8, 1), (24, 1), (16, 2), (24, 3)):
        check_batch(batch, accumulate, mesh)
    tensor = make_mesh("tensor=8", cluster(2, 4))
    check_batch(1, 1, tensor)  # one copy of the batch: the axis tensor does not divide it


@pytest.mark.parametrize(
    ("batch", "accumulate", "message"),
    [
        (12, 1, "--batch-size 12: expected a multiple of data 2 x fsdp 4 x accumulate 1 = 8, such as 8 or 16"),
        (24, 2, "--batch-size 24: expected a multiple of data 2 x fsdp 4 x accumulate 2 = 16, such as 16 or 32"),
        (4, 1, "--batch-size 4: expected a multiple of data 2 x fsdp 4 x accumulate 1 = 8, such as 8"),
        (0, 1, "--batch-size 0: expected a multiple of data 2 x fsdp 4 x accumulate 1 = 8, such as 8"),
        (-8, 1, "--batch-size -8: expected a multiple of data 2 x fsdp 4 x accumulate 1 = 8, such as 8"),
    ],
)
def test_batches_refused(batch, accumulate, message):
    with pytest.raises(InputError) as e:
        check_batch(batch, accumulate, make_mesh("data=2,fsdp=4", cluster(2, 4)))
    assert str(e.value) == message
