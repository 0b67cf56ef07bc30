"""SIGKILL at random moments, also during saves: metrics and result equal those of an undisturbed run, bit for bit."""

import random
import signal
import time

import pytest
import training
from training import assert_same_run, rows, train, wait_for

pytestmark = pytest.mark.usefixtures("compile_once")


def unfinished(out):
    """Names of checkpoints that are being written, or were when the process was killed."""
    try:
        return {path.name for path in (out / "checkpoints").iterdir() if not path.name.isdecimal()}
    except FileNotFoundError:
        return set()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def at_any_time(process, out, rng):
    time.sleep(rng.uniform(0, 12))


def after_a_step(process, out, rng):
    begun, more = rows(out), rng.randint(1, 3)
    wait_for(lambda: rows(out) >= begun + more, process)
    time.sleep(rng.uniform(0, 0.2))


def in_a_save(process, out, rng):
    begun, before = rows(out), unfinished(out)
    wait_for(lambda: rows(out) > begun, process)
    wait_for(lambda: bool(unfinished(out) - before), process)
    time.sleep(rng.uniform(0, 0.02))


def run_with_kills(model, data, out, steps, moments):
    """Kill a run at each of the moments, then let it end; the number of kills that left an unfinished checkpoint."""
    rng = random.Random(0)
    command = training.arguments(model, data, out, "--resume", steps=steps, save_every=1)
    hits = 0
    for number, moment in enumerate(moments, 1):
        process = training.start(command)
        try:
            moment(process, out, rng)
        finally:
            kill(process)
        hits += bool(unfinished(out))
        print(f"kill {number}, {moment.__name__}: {rows(out)} rows, unfinished {sorted(unfinished(out))}", flush=True)
        assert rows(out) < steps
    assert train(model, data, out, "--resume", steps=steps, save_every=1) == 0
    assert not unfinished(out)
    return hits


def test_one_kill(training_model, training_clips, tmp_path):
    steps = 12
    assert train(training_model, training_clips, tmp_path / "undisturbed", steps=steps, save_every=steps) == 0
    hits = run_with_kills(training_model, training_clips, tmp_path / "run", steps, [in_a_save])
    assert hits  # a save takes longer than the wait in `in_a_save`, unless the machine is busy
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed", steps)


@pytest.mark.heavy
def test_twenty_four_kills(training_model, training_clips, tmp_path):
    steps = 300
    assert train(training_model, training_clips, tmp_path / "undisturbed", steps=steps, save_every=steps) == 0
    moments = [at_any_time, in_a_save, after_a_step, in_a_save] * 6
    hits = run_with_kills(training_model, training_clips, tmp_path / "run", steps, moments)
    print(f"{len(moments)} kills, {hits} left an unfinished checkpoint")
    assert hits >= 6
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed", steps)
