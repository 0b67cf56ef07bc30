"""The first moments of a command's process: Ctrl-C, files of the working folder, console scripts."""

import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from svdjax.runtime import cli, startup

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = sorted(
    f"{path.parent.name}.{path.stem}"
    for package in ("sample", "train", "convert")
    for path in (ROOT / package).glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


def test_every_command_has_a_console_script(monkeypatch):
    """And each script runs its command."""
    called = {}
    for script, target in SCRIPTS.items():
        module, _, function = target.partition(":")
        monkeypatch.setattr(f"{module}.run_command", lambda command, script=script: called.update({script: command}))
        getattr(import_module(module), function)()
    assert sorted(called.values()) == COMMANDS
    for script, command in called.items():
        assert script.removeprefix("svdjax-") in (command.split(".")[1].replace("_", "-"), command.replace(".", "-"))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_begin_before_they_import(command):
    """The process is prepared in the first statement after the docstring and `from __future__`."""
    text = ROOT.joinpath(*command.split(".")).with_suffix(".py").read_text()
    code = text.split("from __future__ import annotations\n\n", 1)[1]
    assert code.startswith('if __name__ == "__main__":')
    assert code.split("\n\n")[1].strip() == "startup.begin()"


IMPORTS_INTERRUPTED = """
from svdjax.runtime import startup
startup.begin()
import os, signal
os.kill(os.getpid(), signal.SIGINT)  # while modules are imported
raise SystemExit("not reached")
"""
COMMAND_INTERRUPTED = """
from svdjax.runtime import startup
startup.begin()
import os, signal
from svdjax.runtime import cli
def command(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        import time
        time.sleep(9)
    finally:
        print("cleaned up")
cli.leave(cli.run(command, []))
"""


@pytest.mark.parametrize(("program", "out"), [(IMPORTS_INTERRUPTED, ""), (COMMAND_INTERRUPTED, "cleaned up\n")])
def test_interrupt(program, out):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, out, "interrupted\n")


def test_ignored_interrupts_stay_ignored(monkeypatch):
    """As in a shell's background."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        startup.begin()
        assert cli.run(lambda argv: None, []) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_files_of_the_working_folder_are_not_imported(tmp_path, monkeypatch):
    """A user's own train.py or random.py is no module of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", str(ROOT), "/elsewhere"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    startup.begin()
    assert sys.path == [str(ROOT), "/elsewhere"]
    monkeypatch.chdir(ROOT)
    startup.begin()
    assert sys.path == [str(ROOT), "/elsewhere"]


def test_a_command_beside_files_with_names_of_modules(tmp_path):
    """The training benchmark imports `train` late; the working folder holds a file of that name."""
    for name in ("train.py", "convert.py", "random.py", "types.py", "jax.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')")
    words = ["/bin/svdjax-benchmark", "--help"]
    program = f"from sample.scripts import run_command; sys.argv = {words}; run_command('sample.benchmark')"
    starts = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.append({str(ROOT)!r}); "
    done = subprocess.run(
        [sys.executable, "-P", "-c", starts + program], capture_output=True, text=True, timeout=90, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: svdjax-benchmark ")


def test_name_of_a_console_script_in_messages(monkeypatch):
    monkeypatch.setattr(startup, "script_name", "svdjax-animate")
    assert cli.Parser(prog="python -m sample.animate").prog == "svdjax-animate"
    monkeypatch.setattr(startup, "script_name", None)
    assert cli.Parser(prog="python -m sample.animate").prog == "python -m sample.animate"
