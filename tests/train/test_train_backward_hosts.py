"""`train.backward` on meshes and in several processes: the same numbers as on one device, and weights are divided."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import media
import numpy as np
import pytest
import training
from hosts import free_address
from training import losses, train

STEPS = 3
BATCH = 8
# Compiling steps for several devices takes minutes: run by hand.
pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compile_once")]

PROGRAM = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import jax
    import numpy as np
    import training
    from train.steps import train_plan
    from train.steps.finetuning import Finetuning

    model, data, out, *rest = sys.argv[1:]
    instances = []

    class Recorded(Finetuning):
        def __init__(self, *args):
            super().__init__(*args)
            instances.append(self)

    train_plan.Finetuning = Recorded
    for words in rest:
        mesh, *others = words.split()
        folder = Path(out) / "_".join(words.split())
        assert training.train(model, data, folder, "--mesh", mesh, *others, batch_size=8, steps=3, size="32x32") == 0
        step, = instances
        instances.clear()

        def share(tree):
            whole = sum(x.nbytes for x in jax.tree.leaves(tree))
            held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
            return held / whole

        unet = {k: v for k, v in enumerate(jax.tree.leaves(step.unet)) if v.size >= 1024}
        state = step.abstract_state
        def planned(tree):
            leaves = jax.tree.leaves(tree)
            return sum(np.prod(x.sharding.shard_shape(x.shape)) for x in leaves) / sum(x.size for x in leaves)
        print(json.dumps([words, share(unet), planned(state.trained), planned(state.optimizer)]), flush=True)
    """
)


def on_meshes(model, data, out, *meshes):
    """Train on each mesh, in one process with 8 simulated devices; the shares of the arrays that a device holds, by mesh."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    paths = os.pathsep.join([str(training.ROOT), str(training.ROOT / "tests" / "support")])
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, data, out, *meshes],
        env=environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {words: shares for words, *shares in lines}


@pytest.fixture(scope="module")
def alone(training_model, training_clips, tmp_path_factory):
    """The same run on one device."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert train(training_model, training_clips, out, batch_size=BATCH, steps=STEPS) == 0
    return out


def assert_alike(out, alone, base):
    """Losses and weights agree to the rounding errors of float32 sums in another order.

    AdamW divides a gradient by its own size, so where a gradient is near zero even the sign of its update can differ: by twice
    the learning rate, 1e-4, per step. Nearly all weights must agree to a hundredth of the learning rate.
    """
    np.testing.assert_allclose(losses(out), losses(alone), rtol=2e-5)
    actual, expected = training.state(out, STEPS), training.state(alone, STEPS)
    for name, value in expected.items():
        if name.startswith("trained."):
            difference = np.abs(actual[name] - value)
            assert difference.max() < 2 * STEPS * 1e-4, name
            assert (difference < 1e-6).mean() > 0.99, name


def check_meshes(meshes, model, data, alone, folder):
    shares = on_meshes(model, data, folder / "meshes", *meshes)
    for words in meshes:
        assert_alike(folder / "meshes" / "_".join(words.split()), alone, model)
        sizes = dict(part.split("=") for part in words.split()[0].split(","))
        fsdp = int(sizes.get("fsdp", 1))
        # vectors and small kernels are not divided
        for share in shares[words]:
            assert 1 / fsdp <= share < 1 / fsdp + 0.1 or (sizes.get("tensor") and share < 1 / fsdp + 0.1), (words, shares)


def test_meshes(training_model, training_clips, alone, tmp_path):
    check_meshes(["data=2,fsdp=2,tensor=2"], training_model, training_clips, alone, tmp_path)


def test_every_mesh(training_model, training_clips, alone, tmp_path):
    meshes = [
        "data=8",
        "fsdp=8",
        "data=2,fsdp=4",
        "data=4,tensor=2",
        "data=2,fsdp=2,tensor=2",
        "data=4,tensor=2 --accumulate 2",
    ]
    check_meshes(meshes, training_model, training_clips, alone, tmp_path)


def test_two_processes(training_model, training_clips, alone, tmp_path):
    """Two processes with two devices each, both stopped by SIGTERM; then one process on one device resumes."""
    out, address = tmp_path / "run", free_address()
    command = training.arguments(
        *(training_model, training_clips, out, "--mesh", "data=2,fsdp=2", "--coordinator", address, "--num-processes", 2),
        **{"batch_size": BATCH, "steps": 1000, "save_every": 1, "keep": 1000},
    )
    processes = [
        training.start([*command, "--process-id", str(i)], JAX_NUM_CPU_DEVICES="2", JAX_PLATFORMS="cpu") for i in range(2)
    ]
    try:
        training.wait_for(lambda: training.rows(out) >= STEPS, processes[0], 200)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    output = outputs[0][0]
    assert "1 host, 2 processes, 4 devices (cpu), mesh data=2 fsdp=2, global batch 8" in output
    done = training.rows(out)
    assert f"stopped after step {done} of 1000, which is saved" in output
    # Only XLA prints here, from several threads, which may cut each other's lines: so compare words.
    gloo_words = {"Gloo", "Rank", "is", "connected", "to", "peer", "ranks", "Expected", "number", "of"}
    assert set(re.findall("[A-Za-z]+", outputs[1][0])) <= gloo_words, outputs[1][0]
    np.testing.assert_allclose(losses(out)[:STEPS], losses(alone), rtol=2e-5)
    # on another mesh
    assert train(training_model, training_clips, out, "--resume", batch_size=BATCH, steps=done + 1) == 0
    straight = tmp_path / "straight"
    assert train(training_model, training_clips, straight, batch_size=BATCH, steps=done + 1, save_every=done + 1) == 0
    np.testing.assert_allclose(losses(out), losses(straight), rtol=5e-5)


def test_two_processes_validate_under_a_plan(training_model, training_clips, tmp_path):
    """With the encoders on the devices of both processes, whole or divided; the clip is one that a single process writes."""
    options = {"batch_size": 2, "steps": 1, "validate_every": 1, "validate_steps": 1, "memory": 4}
    assert train(training_model, training_clips, tmp_path / "alone", **options) == 0
    expected = clip(tmp_path / "alone")
    for mesh in ("data=2", "fsdp=2"):
        out, address = tmp_path / mesh, free_address()
        command = training.arguments(
            *(training_model, training_clips, out, "--mesh", mesh, "--coordinator", address, "--num-processes", 2), **options
        )
        environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
        processes = [training.start([*command, "--process-id", str(i)], **environment) for i in range(2)]
        try:
            outputs = [process.communicate(timeout=400) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert "warning" not in outputs[0][1], outputs
        assert np.abs(clip(out) - expected).max() <= 2


def clip(out):
    """The frames of the first validation clip."""
    return media.read_clip(out / "validation" / "step-000001.webp")[0].astype(int)


def test_ctrl_c_in_one_of_two_processes(training_model, training_clips, tmp_path):
    """Both save the same step; only the exit status of the process that got it tells of it."""
    out, address = tmp_path / "run", free_address()
    hosts = ("--mesh", "data=2", "--coordinator", address, "--num-processes", 2)
    command = training.arguments(training_model, training_clips, out, *hosts, batch_size=2, steps=1000, save_every=1000)
    environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    processes = [training.start([*command, "--process-id", str(i)], **environment) for i in range(2)]
    try:
        training.wait_for(lambda: training.rows(out) >= 1, processes[0], 200)
        processes[1].send_signal(signal.SIGINT)
        outputs = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 130], outputs
    done = training.rows(out)
    assert f"stopped after step {done} of 1000, which is saved" in outputs[0][0]
    assert [path.name for path in (out / "checkpoints").iterdir()] == [str(done)]
    assert (out / "backward").exists()
