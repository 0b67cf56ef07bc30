"""Real processes that share pairs: nothing is made twice, a killed process costs the pair that it was making, and only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.heavy

PREPARE = """
import os, sys, time
import numpy as np
from sample.batches import claims, making

claims.BEAT, claims.SILENCE, claims.POLL = 0.1, 3.0, 0.1
log, hangs = sys.argv[1], int(sys.argv[2])

def note(name):
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {name}\\n")
    global hangs
    hangs -= 1
    time.sleep(100 if hangs == 0 else 0.2)
"""
INTERPOLATE = (
    PREPARE
    + """
from sample.interpolate import main

def generate(requests, together, model, plan, progress):
    note(requests[0].settings.seed)
    return [(np.full((2, 16, 16, 3), requests[0].settings.seed, np.uint8), [])]

making.generate_together = generate
making.planned_model.load_for_works = lambda *a, **k: (None, dict.fromkeys(a[3]))
sys.exit(main(sys.argv[3:]))
"""
)
EVALUATE = (
    PREPARE
    + """
from sample import evaluate
from sample.evaluation import clip_folders

write = clip_folders.write

def noted(folder, *given):
    note("/".join(folder.parts[-2:]))
    write(folder, *given)

clip_folders.write = noted
report_on = evaluate.report_on

def noted_report(*given):
    note("report")
    report_on(*given)

evaluate.report_on = noted_report
if __name__ == "__main__":
    sys.exit(evaluate.main(sys.argv[3:]))
"""
)


class Host:
    """A process of a run; its output goes to a file.

    Args:
        program: the text of the program.
        number: its number, for `--process-id`; None for a run with one process.
        hangs: the clip, counted from 1, at which it hangs; 0 for none.
    """

    def __init__(self, folder: Path, program: str, number: int | None, hangs: int, *words: str):
        script = folder / "program.py"  # a file, because workers that measure import it again
        script.write_text(program)
        hosts = [] if number is None else ["--num-processes", "3", "--process-id", str(number)]
        self.output = folder / f"output{number}"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, script, str(folder / "log"), str(hangs), *words, *hosts],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
            )

    def wait(self) -> int:
        status = self.process.wait(240)
        print(self.output.read_text())
        return status


def entries(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_entry(folder: Path, host: Host, count: int) -> str:
    """Wait for an entry of a process, and return its unit."""
    for _ in range(2000):
        own = [unit for process, unit in entries(folder) if process == str(host.process.pid)]
        if len(own) >= count:
            return own[count - 1]
        assert host.process.poll() is None, host.output.read_text()
        time.sleep(0.05)
    raise AssertionError("nothing was made")


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        Image.new("RGB", (16, 16), (0, 0, ord(name))).save(tmp_path / f"{name}.png")
    rows = "".join(f"a.png,b.png,out/{k}.gif,{k}\n" for k in range(24))
    (tmp_path / "p.csv").write_text(f"first,last,output,seed\n{rows}")
    return tmp_path


ROWS = ("--pairs", "p.csv", "--size", "16x16", "--num-frames", "2", "--steps", "1")


def test_a_killed_process_costs_one_pair(folder):
    """Three processes, one killed in the middle of its third clip: the others make all, also that clip."""
    dying, *others = (Host(folder, INTERPOLATE, number, hangs, *ROWS) for number, hangs in ((0, 3), (1, 0), (2, 0)))
    lost = wait_for_entry(folder, dying, 3)
    dying.process.kill()
    dying.process.wait()
    assert [host.wait() for host in others] == [0, 0]
    assert Counter(unit for _, unit in entries(folder)) == Counter(map(str, range(24))) + Counter([lost])
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(f"{k}.gif" for k in range(24))
    again = Host(folder, INTERPOLATE, None, 0, *ROWS)
    assert again.wait() == 0
    assert len(entries(folder)) == 25


def test_the_same_command_finishes_what_killed_processes_left(folder):
    hosts = [Host(folder, INTERPOLATE, number, 2, *ROWS) for number in range(2)]
    lost = [wait_for_entry(folder, host, 2) for host in hosts]
    for host in hosts:
        host.process.kill()
        host.process.wait()
    assert len(list((folder / "out").glob("*.gif"))) == 2
    again = [Host(folder, INTERPOLATE, number, 0, *ROWS) for number in range(2)]
    assert [host.wait() for host in again] == [0, 0]
    assert Counter(unit for _, unit in entries(folder)) == Counter(map(str, range(24))) + Counter(lost)
    assert len(list((folder / "out").iterdir())) == 24


def test_an_evaluation_by_several_processes(folder):
    """The pairs of every method are shared; one process, which isn't the killed one, measures them."""
    words = ("--out", "results", "--pairs", "12", "--methods", "cross-fade,nearest", "--batch-size", "2", "--workers", "1")
    dying, *others = (Host(folder, EVALUATE, number, hangs, *words) for number, hangs in ((0, 3), (1, 0), (2, 0)))
    lost = wait_for_entry(folder, dying, 3)
    dying.process.kill()
    dying.process.wait()
    assert [host.wait() for host in others] == [0, 0]
    units = Counter(unit for _, unit in entries(folder))
    expected = Counter(f"{method}/{k:04d}" for method in ("truth", "cross-fade", "nearest") for k in range(12))
    assert units == expected + Counter([lost, "report"])
    results = json.loads((folder / "results" / "results.json").read_text())
    assert results["methods"]["cross-fade"]["ssim"]["pairs"] == 12
    assert not list((folder / "results").rglob(".svdjax-*"))
