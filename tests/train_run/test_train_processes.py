"""Several processes of `train.backward` must run the same command, and see the same folder; otherwise all end with one line."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import training
from hosts import CPUS, free_address
from training import ROOT, one_line

from svdjax.errors import InputError
from train import process
from train.options import backward
from train.run.stop import Stop

PROGRAM = textwrap.dedent(
    """
    import sys
    from svdjax.parallel.main_process import leave
    from train import backward
    from train.run import prepared_folder
    prepared_folder.WAIT = 0.1
    backward.build = lambda *args: print("the model was loaded")
    leave(backward.main(sys.argv[1:]))
    """
)


@pytest.fixture
def refused(training_model, training_clips, out):
    """Start two processes, each with its own options; returns the error line of each."""

    def refused(*options):
        address, environment = free_address(), os.environ | CPUS | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
        processes = []
        for i, own in enumerate(options):
            hosts = ("--coordinator", address, "--num-processes", len(options), "--process-id", i)
            command = training.arguments(training_model, training_clips, own.pop("out", out), *hosts, **own)
            words, pipe = [sys.executable, "-c", PROGRAM, *command], subprocess.PIPE
            processes.append(subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True))
        try:
            outputs = [started.communicate(timeout=100) for started in processes]
        finally:
            for started in processes:
                started.kill()
        assert [started.returncode for started in processes] == [2] * len(options), outputs
        assert not any("the model was loaded" in output for output, _ in outputs)
        return [one_line(error) for _, error in outputs]

    return refused


def test_another_seed_in_one_process(refused, out):
    line = "error: --seed is 0 in process 0, 1 in process 1: expected the same command in all processes"
    assert refused({"seed": 0}, {"seed": 1}) == [line] * 2
    assert not out.exists()


def test_a_folder_that_is_not_shared(refused, out):
    other = out.with_name("other")
    start = f"error: --out {other}: process 1 doesn't find there what process 0 wrote to {out}"
    assert refused({}, {"out": other}) == [f"{start}: all processes need the same folder"] * 2
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.fixture
def gathered(monkeypatch):
    """Makes `agreed` compare this process's value with that of another one."""

    def gather(change):
        monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("svdjax.parallel.cluster.gather_json", lambda value: [value, [None, change(dict(value[1]))]])

    return gather


def refusal(call):
    with pytest.raises(InputError) as e:
        call()
    return str(e.value).removesuffix(": expected the same command in all processes")


DIFFERENT = {
    "learning_rate": (0.5, "--learning-rate is 0.0001 in process 0, 0.5 in process 1"),
    "steps": (7, "--steps is 6 in process 0, 7 in process 1"),
    "save_every": (3, "--save-every is 2 in process 0, 3 in process 1"),
    "keep": (3, "--keep is 2 in process 0, 3 in process 1"),
    "validate_every": (3, "--validate-every is not given in process 0, 3 in process 1"),
    "accumulate": (2, "--accumulate is 1 in process 0, 2 in process 1"),
    "mesh": ("fsdp=-1", "--mesh is data=-1 in process 0, fsdp=-1 in process 1"),
    "no_rotation": (True, "--no-rotation is not given in process 0, given in process 1"),
    "cache_latents": ("here", "--cache-latents is not given in process 0, given in process 1"),
    "model": ("elsewhere", None),
    "data": ("elsewhere", None),
    "process_id": (1, None),
    "workers": (9, None),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *rest) for name, rest in DIFFERENT.items()])
def test_options_of_all_processes(gathered, tmp_path, name, value, message):
    options = backward.parse(training.arguments(tmp_path, tmp_path, tmp_path))
    other = dataclasses.replace(options, **{name: value})
    gathered(lambda _: process.same_command(other))
    if message is None:
        process.agreed(lambda: options, process.same_command)
    else:
        assert refusal(lambda: process.agreed(lambda: options, process.same_command)) == message


def test_files_and_versions_of_all_processes(gathered, tmp_path):
    gathered(lambda facts: facts | {"start (--init)": "2"})
    assert refusal(lambda: process.same_settings(lambda: {"--seed": 0, "start (--init)": "1"})) == (
        "start (--init) is 1 in process 0, 2 in process 1"
    )
    options = backward.parse(training.arguments(tmp_path, tmp_path, tmp_path))
    gathered(lambda facts: facts | {"the version of JAX": "0.0.1"})
    assert refusal(lambda: process.agreed(lambda: options, process.same_command)).startswith("the version of JAX is ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, None)])
def test_a_signal_to_one_of_several_processes(monkeypatch, number, status):
    """All stop after the step that they agree on: Ctrl-C is passed on as SIGTERM, to JAX's preemption service."""
    received = []
    old = signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("train.run.stop.multihost_utils.reached_preemption_sync_point", lambda step: step == 3)
    try:
        with pytest.raises(status) if status else contextlib.nullcontext(), Stop() as stop:
            assert not stop.requested(1)
            os.kill(os.getpid(), number)
            assert received == ["SIGTERM"]
            assert not stop.requested(2)
            assert stop.signal is None
            assert stop.requested(3)
            assert stop.signal == number
    finally:
        signal.signal(signal.SIGTERM, old)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_in_one_of_several_processes(monkeypatch, capsys):
    old = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    try:
        with Stop():
            os.kill(os.getpid(), signal.SIGINT)
            assert "Ctrl-C again stops at once, without saving" in capsys.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, old)
