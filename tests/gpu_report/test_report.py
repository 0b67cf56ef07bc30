"""The report: order of parts, time limit, failures, files. Parts are faked where a real one would take long."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sample import benchmark
from sample.gpu_report import process, run
from sample.gpu_report.options import ReportOptions
from sample.gpu_report.parts import PARTS, PROBE, Part

DEVICE = {
    "date": "2000-01-01T00:00:00+00:00",
    "device": "Imaginary 1",
    "platform": "gpu",
    "memory_bytes": 80 * 2**30,
    "versions": {"jax": "0"},
}


def options(folder: Path, minutes: float = 8) -> ReportOptions:
    return ReportOptions(folder=folder, minutes=minutes, model=None, size=None, num_frames=None, dtype=None, repeats=1)


def part(name: str, seconds: float = 1, packages: tuple[str, ...] = ()) -> Part:
    return Part(name=name, title=f"the {name}", module=name, gpu_seconds=seconds, cpu_seconds=seconds, packages=packages)


@pytest.fixture
def fake(monkeypatch):
    """Fake the processes: `fake({part: function of (request, on_message)})`; the functions return the error or None."""
    limits = {}

    def install(behaviours, parts, device=DEVICE):
        monkeypatch.setattr(run, "PARTS", parts)

        def fake_run(part, request, limit, scratch, log, on_message):
            limits[part.name] = limit
            if part is PROBE:
                on_message("results", device)
                return None
            return behaviours[part.name](request, on_message)

        monkeypatch.setattr(process, "run", fake_run)
        return limits

    return install


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_files_after_every_result(fake, tmp_path, capsys):
    def first(request, on_message):
        assert (request.model, request.size, request.dtype, request.gpu) == ("svd-xt", (1024, 576), "bfloat16", True)
        on_message("progress", "working")
        on_message("results", {"float32_highest": {"v": 1e-6}})
        found = read(tmp_path)["parts"]["parity"]
        assert found["status"] == "running"
        assert found["results"] == {"float32_highest": {"v": 1e-6}}
        assert "1.0e-06" in (tmp_path / "report.md").read_text()
        on_message("note", "a line")

    fake({"parity": first}, [part("parity")])
    run.make(options(tmp_path))
    report = read(tmp_path)
    assert report["parts"]["parity"]["status"] == "done"
    assert report["parts"]["parity"]["notes"] == ["a line"]
    assert report["setup"]["device"] == "Imaginary 1"
    captured = capsys.readouterr()
    assert "left] the parity: working" in captured.err
    assert "Imaginary 1" in captured.out
    assert "no GPU" not in captured.out


def test_failures_cost_no_other_part(fake, tmp_path):
    def fails(request, on_message):
        on_message("results", {"half": 1})
        return "out of memory (16 GiB)"

    done = []
    parts = [part("a"), part("b"), part("c", packages=("no_such_package",)), part("d")]
    fake({"a": fails, "b": lambda *_: done.append(1), "d": lambda *_: done.append(2)}, parts)
    run.make(options(tmp_path / "new"))
    found = read(tmp_path / "new")["parts"]
    assert done == [1, 2]
    assert [found[name]["status"] for name in "abcd"] == ["failed", "done", "skipped", "done"]
    assert found["a"]["results"] == {"half": 1}
    assert found["a"]["notes"] == ["out of memory (16 GiB)"]
    assert "no_such_package not installed" in found["c"]["notes"][0]


def test_parts_for_gpus_and_parts_at_their_limit(fake, tmp_path):
    only = dataclasses.replace(part("only"), gpu_only=True)
    fake({"slow": lambda *_: "ended at its limit of 9 s"}, [only, part("slow")], DEVICE | {"platform": "cpu"})
    run.make(options(tmp_path))
    found = read(tmp_path)["parts"]
    assert [found[name]["status"] for name in ("only", "slow")] == ["skipped", "ended"]


def test_time_limit(fake, tmp_path):
    """A part that can't be done in the time that is left is skipped with the reason; a shorter one still runs."""
    limits = fake({"long": None, "short": lambda *_: None}, [part("long", 100), part("short", 10)])
    run.make(options(tmp_path, minutes=0.5))
    found = read(tmp_path)["parts"]
    assert found["long"]["status"] == "skipped"
    assert "expected to take 100 s" in found["long"]["notes"][0]
    assert found["short"]["status"] == "done"
    assert "long" not in limits
    assert 25 < limits["short"] <= 30  # never more than is left


def test_only_some_parts_in_another_order(fake, tmp_path):
    done = []
    fake({name: lambda *_, name=name: done.append(name) for name in "abc"}, [part(name) for name in "abc"])
    run.make(dataclasses.replace(options(tmp_path), parts=("c", "a")))
    assert done == [*read(tmp_path)["parts"]] == ["c", "a"]


def test_slow_device_lengthens_expectations(fake, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])

    def slow(request, on_message):
        now[0] += 20

    fake({"a": slow, "b": None}, [part("a", 10), part("b", 15)])
    run.make(options(tmp_path, minutes=0.75))  # 25 s are left, but 15 have become 30
    assert read(tmp_path)["parts"]["b"]["status"] == "skipped"
    assert read(tmp_path)["parts"]["b"]["expected_seconds"] == 30


def test_interrupt_keeps_what_is_there(fake, tmp_path, capsys):
    def interrupted(request, on_message):
        on_message("results", {"half": 1})
        raise KeyboardInterrupt

    fake({"a": lambda *_: None, "b": interrupted}, [part("a"), part("b"), part("c")])
    assert benchmark.main(["--gpu-report", str(tmp_path / "new")]) == 130
    found = read(tmp_path / "new")["parts"]
    assert [found[name]["status"] for name in "abc"] == ["done", "stopped", "skipped"]
    assert found["b"]["results"] == {"half": 1}
    assert "holds what was measured" in capsys.readouterr().err


def test_cpu_is_named(fake, tmp_path):
    seen = []
    fake({"a": lambda request, _: seen.append(request)}, [part("a")], DEVICE | {"platform": "cpu", "memory_bytes": None})
    run.make(options(tmp_path))
    assert "**no GPU**" in (tmp_path / "report.md").read_text()
    assert (seen[0].model, seen[0].dtype, seen[0].size) == ("small", "float32", (64, 64))


def test_parts_are_complete():
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    for one in PARTS:
        path = Path(__file__).parents[2].joinpath(*one.module.split(".")).with_suffix(".py")
        assert "def measure(request: Request, reporter: Reporter)" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time-limit", "3"], "--gpu-report"),
        (["--parts", "parity"], "--gpu-report"),
        (["--gpu-report", "{new}", "--parts", "decode,steps"], "--parts has 'steps', expected some of parity, dual_step"),
        (["--gpu-report", "{new}", "--parts", "decode,decode"], "each once"),
        (["--gpu-report", "{new}", "--time-limit", "0"], "--time-limit is 0"),
        (["--gpu-report", "{new}", "--time-limit", "nan"], "--time-limit is nan"),
        (["--gpu-report", "{new}", "--train"], "--train doesn't apply"),
        (["--gpu-report", "{new}", "--json", "{new}"], "--json doesn't apply"),
        (["--gpu-report", "{new}", "--size", "100x100"], "multiples of 64"),
        (["--gpu-report", "{new}", "--num-frames", "1"], "--num-frames is 1"),
        (["--gpu-report", "{new}", "--repeats", "0"], "--repeats is 0"),
        (["--gpu-report", "{new}/below"], "doesn't exist"),
        (["--gpu-report", "{file}"], "is a file, expected a folder"),
    ],
)
def test_user_errors(arguments, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    names = {"new": tmp_path / "new", "file": tmp_path / "file"}
    assert benchmark.main([text.format(**names) for text in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "new").exists()
