"""Muon: the same numbers as optax's, with the work shared among devices."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from train.steps.muon import scale_by_muon

SHAPES = {"a": (64, 64), "b": (3, 3, 40, 64), "c": (64, 360), "d": (64, 64), "e": (360, 64), "f": (3, 64, 64)}

PROGRAM = f"""
import json, jax, numpy as np
from jax.sharding import Mesh
from train.steps.muon import scale_by_muon
rng = np.random.default_rng(0)
gradients = {{name: rng.standard_normal(shape).astype("float32") for name, shape in {SHAPES}.items()}}
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))
one, shared = (jax.jit(scale_by_muon(0.2, m).update) for m in (None, mesh))
state = scale_by_muon(0.2).init(gradients)
alone, among = (f.lower(gradients, state).compile() for f in (one, shared))
found, wanted = (jax.device_get(program(gradients, state)[0]) for program in (among, alone))
difference = max(float(abs(found[name] - wanted[name]).max()) for name in found)
print(json.dumps([difference, among.cost_analysis()["flops"] / alone.cost_analysis()["flops"]]))
"""


def test_same_updates_as_optax():
    rng = np.random.default_rng(0)
    gradients = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in SHAPES.items()}
    dims = {name: MuonDimensionNumbers(tuple(range(len(s) - 1)), (len(s) - 1,)) for name, s in SHAPES.items()}
    ours = scale_by_muon(0.2)
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=dims)
    one, other = (tx.init(gradients) for tx in (ours, theirs))
    for step in range(3):
        now = {name: g * (1 + step) + step for name, g in gradients.items()}
        found, one = jax.jit(ours.update)(now, one)
        wanted, other = jax.jit(theirs.update)(now, other)
        for name, update in wanted.items():
            size = np.sqrt(max(np.prod(update.shape[:-1]), update.shape[-1])) * 0.2  # the size of AdamW's updates
            np.testing.assert_allclose(
                found[name], update * size, atol=2e-3 * size * float(jnp.abs(update).max()), err_msg=name
            )


def test_devices_share_the_work():
    """Four devices, stacks that aren't multiples of four: the same updates with less than half of the operations each."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    difference, share = json.loads(run.stdout.splitlines()[-1])
    assert difference < 1e-3
    assert share < 0.5
