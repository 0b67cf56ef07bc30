"""Sampling on meshes of 2, 4 and 8 simulated devices gives the latents and frames of one device, for every method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("on_devices.py")

MESHES = [
    "guidance=2",
    "rows=2",
    "columns=2",
    "fsdp=2",
    "guidance=2,columns=2",
    "rows=2,columns=2",
    "columns=4",
    "columns=8",
    "guidance=2,rows=2,columns=2",
    "guidance=2,fsdp=2,columns=2",
]
CHAINS = ["data=2", "data=2,guidance=2,columns=2", "fsdp=2,data=2", "data=3,rows=2"]


def check(*cases):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "NPROC": "12"}
    command = [sys.executable, str(PROGRAM), json.dumps(cases)]
    process = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=3000)
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert len(results) == sum(len(case["meshes"]) for case in cases)
    for found in results:
        assert found["latents"] < 1e-5, found
        assert found["levels"] <= 1, found
        assert found["disagreement"] < 1e-5, found


@pytest.mark.heavy
@pytest.mark.parametrize(
    "method", ["dual", "trf", "no-finetune", "no-rotation", "forward", "vibid", "trf-shipped", "mpd+vibid", "mpd+dual"]
)
def test_methods(method):
    prefix, _, name = method.rpartition("+")
    case = {"method": name, "meshes": MESHES} | ({"prefix": prefix} if prefix else {})
    case |= {"steps": 10} if name == "trf-shipped" else {}
    check(case)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        {"guidance_steps": [0, 1], "recurrence": 1, "fusion": "linear"},
        {"deep_every": 2, "steps": 4},
        {"schedule": "ays"},
        {"schedule": "lcm"},
        {"guidance": [1, 1]},
        {"rate": 2},
        {"decode_chunk": 2},
        {"method": "vibid", "deep_every": 2, "steps": 4},
    ],
    ids=str,
)
def test_options(options):
    check({"meshes": ["guidance=2,rows=2,columns=2", "columns=2"], **options})


@pytest.mark.heavy
def test_chains_and_batches():
    """Three clips in rounds of two, with one repeated; batches that are divided, and one that isn't."""
    check({"meshes": CHAINS, "clips": 3}, {"meshes": CHAINS[:3], "batch": 2}, {"meshes": ["data=2"], "batch": 3})
