"""One video over the devices of several connected processes: the files of one device, and errors that end all processes."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hosts import EIGHT, SLURM, free_address, start, write_keyframes
from PIL import Image

from sample import interpolate
from sample.batches import options
from svdjax.parallel import cluster

OUTPUTS = ("-o", "frames/", "--save-latents", "latents.npz")
GLOO = {"Gloo", "Rank", "is", "connected", "to", "peer", "ranks", "Expected", "number", "of"}  # words that XLA prints


@pytest.fixture(scope="module")
def command(model, tmp_path_factory):
    """The command for a small model, and the files of three keyframes."""
    files = write_keyframes(tmp_path_factory.mktemp("keyframes"))
    return ["-m", "sample.interpolate", "--model", str(model), "--size", "32x32", "--steps", "3", *OUTPUTS], files


class Processes:
    """Two connected processes with two devices each, in the folders 0 and 1 of `folder`.

    Args:
        words: the command of both.
        others: further words of process 1.
    """

    def __init__(self, folder: Path, words: Sequence[str], others: Sequence[str] = ()):
        self.folder = folder
        hosts = [*words, "--coordinator", free_address(), "--num-processes", "2", "--process-id"]
        given = [[*hosts, "0"], [*hosts, "1", *others]]
        self.processes = [start(folder / str(k), words, 2) for k, words in enumerate(given)]

    def statuses(self, seconds: float = 600) -> list[int]:
        """Exit statuses, as soon as both have ended."""
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def errors(self) -> list[list[str]]:
        """The error lines of each process."""
        return [[line for line in self.text(k, "err").splitlines() if line.startswith("error: ")] for k in range(2)]

    def text(self, process: int, name: str) -> str:
        return (self.folder / str(process) / name).read_text()

    def files(self, process: int) -> list[str]:
        """What a process wrote, hidden files included."""
        return sorted({path.name for path in (self.folder / str(process)).iterdir()} - {"out", "err"})

    def wait_for_evaluations(self) -> None:
        """Wait until process 0 has sampled a little."""
        for _ in range(6000):
            if re.search(r"\| [1-9]\d*/", self.text(0, "err")):
                return
            assert [process.poll() for process in self.processes] == [None, None], self.text(0, "err")
            time.sleep(0.05)
        raise AssertionError(self.text(0, "err"))


def compare(found: Path, expected: Path) -> tuple[float, int]:
    """Relative L2 difference of the latents, and the largest difference of the frames in levels."""
    a, b = (np.load(folder / "latents.npz")["latents"] for folder in (found, expected))
    assert a.shape == b.shape
    names = sorted(path.name for path in (expected / "frames").iterdir())
    assert sorted(path.name for path in (found / "frames").iterdir()) == names
    c, d = (np.array([np.asarray(Image.open(folder / "frames" / name), int) for name in names]) for folder in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), int(np.abs(c - d).max())


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("count", "words", "mesh"),
    [
        (2, ("--mesh", "guidance=2,columns=2"), "guidance=2 columns=2"),
        (2, ("--mesh", "rows=4"), "rows=4"),
        (2, ("--mesh", "fsdp=2,guidance=2"), "guidance=2 fsdp=2"),
        (2, (), "guidance=2 rows=2"),
        (3, ("--mesh", "data=2,columns=2", "--loop", "--keep-keyframes"), "data=2 columns=2"),
        (2, ("--mesh", "columns=2,guidance=2", "--rate", "2"), "guidance=2 columns=2"),
    ],
    ids=str,
)
def test_files_of_one_device(command, tmp_path, count, words, mesh):
    """Process 0 writes the files that one process with one device writes, and process 1 writes nothing."""
    base, keyframes = command
    given = [*base, *keyframes[:count], *words]
    run = Processes(tmp_path, given)
    assert run.statuses() == [0, 0], run.text(0, "err") + run.text(1, "err")
    printed = run.text(0, "out")
    assert f"1 host, 2 processes, 4 devices (cpu), mesh {mesh}\n" in printed
    assert "one run over 2 processes: if one of them ends, all end\n" in printed
    assert run.files(0) == ["frames", "latents.npz"]
    assert run.files(1) == []
    assert set(re.findall("[A-Za-z]+", run.text(1, "out"))) <= GLOO, run.text(1, "out")
    alone = [word for word in given if word not in {"--mesh", words[1] if words else None}]
    assert start(tmp_path / "alone", alone, 1).wait(600) == 0
    latents, levels = compare(tmp_path / "0", tmp_path / "alone")
    assert latents < 1e-5
    assert levels <= (2 if "--rate" in words else 1)  # new frames are conditioned on frames that may differ by a level


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("others", "line"),
    [
        (["--seed", "5"], "seed is 0 in process 0, 5 in process 1: expected the same command in all processes"),
        (["--noise", "missing.npz"], "process 1: missing.npz: no such file"),
        (["--mesh", "guidance=2"], "process 1: --mesh guidance=2: guidance 2 = 2, expected 4 devices in total"),
    ],
    ids=str,
)
def test_errors_before_sampling_end_all_processes(command, tmp_path, others, line):
    base, keyframes = command
    run = Processes(tmp_path, [*base, *keyframes[:2]], others)
    assert run.statuses(60) == [2, 2]
    first, second = run.errors()
    assert first == second
    assert len(first) == 1
    assert line in first[0]


@pytest.mark.heavy
def test_outputs_are_those_of_process_0(command, tmp_path):
    """A file that exists where process 1 runs doesn't matter; an output that process 0 can't write ends both."""
    base, keyframes = command
    (tmp_path / "target").mkdir()
    words = [*base, *keyframes[:2], "-o", str(tmp_path / "target" / "video.gif")]
    run = Processes(tmp_path, words, ["-o", str(tmp_path / "nowhere" / "video.gif")])
    run.wait_for_evaluations()
    (tmp_path / "target").rmdir()
    assert run.statuses() == [2, 2]
    first, second = run.errors()
    assert first == second
    assert len(first) == 1
    assert "video.gif" in first[0]


@pytest.mark.heavy
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_ends_the_others(command, tmp_path, killed):
    base, keyframes = command
    run = Processes(tmp_path, [*base, *keyframes[:2], "--steps", "1000", "--mesh", "guidance=2,columns=2"])
    run.wait_for_evaluations()
    run.processes[killed].kill()
    statuses = run.statuses(130)
    assert 0 not in statuses
    assert run.files(0) == run.files(1) == []
    if killed == 1:  # JAX itself aborts the others if the first ends, because it coordinates them
        assert statuses[0] == 2
        assert "error: another process has ended, or a device has failed: nothing was written" in run.text(0, "err")


@pytest.mark.heavy
def test_slurm_tasks_with_a_mesh_are_joined(command, tmp_path):
    """Both tasks are on this host; the command would refuse a mesh of four devices in a process with two."""
    base, keyframes = command
    words = [*base, *keyframes[:2], "--mesh", "guidance=2,columns=2", "--seed"]
    tasks = EIGHT | {"SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost"}
    tasks |= {"SLURM_NODEID": "0", "JAX_COORDINATOR_PORT": free_address().split(":")[1]}
    processes = [start(tmp_path / k, [*words, k], 2, tasks | {"SLURM_PROCID": k, "SLURM_LOCALID": k}) for k in "01"]
    assert [process.wait(60) for process in processes] == [2, 2]
    for k in "01":
        assert "error: seed is 0 in process 0, 1 in process 1" in (tmp_path / k / "err").read_text()


def test_incomplete_options(capsys):
    assert interpolate.main(["a.png", "b.png", "--num-processes", "2", "--process-id", "0"]) == 2
    assert "--num-processes and --process-id without --coordinator: give all three or none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mesh", "given", "joined"),
    [
        (None, (None, None, None), False),  # each Slurm task makes a video of its own
        ("guidance=2", (None, None, None), True),
        (None, ("host:1", 2, 0), True),
        (None, (None, 2, 0), True),  # and `cluster.start` refuses it
    ],
)
def test_when_processes_are_joined(monkeypatch, mesh, given, joined):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(cluster, "start", lambda *options: calls.append(options))
    names = ("coordinator", "num_processes", "process_id")
    options.connect(argparse.Namespace(mesh=mesh, **dict(zip(names, given, strict=True))))
    assert calls == [given] * joined
