"""Bytes between devices in compiled programs with known communication, on 8 simulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import json
    import jax, jax.numpy as jnp
    from jax import lax
    from jax.sharding import NamedSharding, PartitionSpec as P
    from sample.planning.collectives import traffic
    from svdjax.parallel.mesh import make_mesh

    mesh = make_mesh("data=2,fsdp=4")
    both = ("data", "fsdp")
    x = jax.device_put(jnp.ones((8 * 16, 32)), NamedSharding(mesh, P(both)))  # 2048 bytes on each device

    def five(f):
        return lambda x: lax.scan(lambda x, _: (jnp.tanh(f(x)), None), x, length=5)[0]

    def until(x):
        return lax.while_loop(lambda x: x.sum() < 3, lambda x: jnp.sin(lax.psum(x, "fsdp")), x)

    def branch(x):
        small = lambda x: lax.psum(x[:1], "fsdp") * x
        large = lambda x: lax.psum(x, both) * 2
        return lax.cond(lax.psum(x.sum(), both) > 3, small, large, x)

    programs = {
        "gather": lambda x: lax.all_gather(x, "fsdp"),
        "sum over all": lambda x: lax.psum(x, both),
        "sum over data": lambda x: lax.psum(x, "data"),
        "scatter": lambda x: lax.psum_scatter(x, "fsdp", tiled=True),
        "exchange": lambda x: lax.all_to_all(x, "fsdp", 0, 1, tiled=True),
        "pass on": lambda x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
        "two at once": lambda x: (lax.psum((x, jnp.sin(x[:4])), "fsdp")),
        "in a scan": five(lambda x: lax.psum(x, "fsdp")),
        "in a scan in a scan": five(five(lambda x: lax.psum(x, "data"))),
        "in a loop of unknown length": until,
        "in a branch": branch,
    }
    out = {}
    for name, fn in programs.items():
        fn = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=P(both), out_specs=P(both), check_vma=False))
        try:
            out[name] = [[t.kind, t.axes, t.count, t.bytes] for t in traffic(fn.lower(x).compile(), mesh)]
        except ValueError as e:
            out[name] = str(e)

    # weights sharded over fsdp; the compiler inserts the gathering where they are used
    w = jax.device_put(jnp.ones((3, 32, 32)), NamedSharding(mesh, P(None, None, "fsdp")))
    whole = NamedSharding(mesh, P())
    layers = jax.jit(lambda x, w: lax.scan(lambda x, w: (x @ lax.with_sharding_constraint(w, whole), None), x, w)[0])
    out["weights"] = [[t.kind, t.axes, t.count, t.bytes] for t in traffic(layers.lower(x, w).compile(), mesh)]
    print(json.dumps(out))
    """
)


@pytest.fixture(scope="module")
def programs() -> dict:
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


B = 2048  # bytes of x on each device


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gather", [["all-gather", "fsdp", 1, 3 * B]]),
        ("sum over all", [["all-reduce", "data+fsdp", 1, 2 * 7 / 8 * B]]),
        ("sum over data", [["all-reduce", "data", 1, B]]),
        ("scatter", [["reduce-scatter", "fsdp", 1, 3 / 4 * B]]),
        ("exchange", [["all-to-all", "fsdp", 1, 3 / 4 * B]]),
        ("pass on", [["collective-permute", "fsdp", 1, B]]),
        ("in a scan", [["all-reduce", "fsdp", 5, 5 * 2 * 3 / 4 * B]]),
        ("in a scan in a scan", [["all-reduce", "data", 25, 25 * B]]),
        # the sum in the condition, and the larger branch
        ("in a branch", [["all-reduce", "data+fsdp", 2, 2 * 7 / 8 * (4 + B)]]),
        ("weights", [["all-gather", "fsdp", 3, 3 * 3 * 32 * 8 * 4]]),
    ],
)
def test_programs(programs, name, expected):
    assert programs[name] == expected


def test_two_sums_together_or_apart(programs):
    """XLA may combine them; the bytes are the same."""
    [[kind, axes, _, sent]] = programs["two at once"]
    assert (kind, axes, sent) == ("all-reduce", "fsdp", 2 * 3 / 4 * (B + B / 4))


def test_a_loop_of_unknown_length(programs):
    assert "the length of this loop is unknown" in programs["in a loop of unknown length"]
