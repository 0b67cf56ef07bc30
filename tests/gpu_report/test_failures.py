"""Why something failed, in one line: the reason, and not a library's advice or the last task."""

from __future__ import annotations

import subprocess
import sys

import jax
import pytest

from sample.gpu_report import failures
from svdjax.errors import InputError

TASK = "compiling the training step ..."
TRACEBACK = """Traceback (most recent call last):
  File "first.py", line 1, in f
    run()
    ~~~^^
KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "second.py", line 1, in g
    raise ValueError
ValueError: the second
--------------------
For simplicity, JAX has removed its internal frames from the traceback of the following exception."""

ENDINGS = {
    "a user error": (2, f"{TASK}\nerror: --size is wrong\n", "--size is wrong"),
    "a user error before advice": (2, "error: too large\nsome advice\n", "too large"),
    "an exception before advice": (1, f"{TASK}\n{TRACEBACK}\n", "ValueError: the second"),
    "killed during a task": (
        -9,
        f"error: of something else\n{TASK}\n",
        "killed by the system, probably for lack of host memory",
    ),
    "crashed": (-6, TASK, "crashed: SIGABRT"),
    "nothing but a task": (3, TASK, f"exit status 3: {TASK}"),
    "silent": (3, "", "exit status 3: no output"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_command(name):
    status, stderr, reason = ENDINGS[name]
    assert failures.of_command(status, stderr) == reason


def test_exception_of_jax():
    """As it is printed by the installed version."""
    code = "import jax; jax.jit(lambda x: x.no_such_thing)(1.0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "For simplicity, JAX has removed its internal frames" in done.stderr.splitlines()[-1]
    assert failures.of_command(done.returncode, done.stderr).startswith("AttributeError: ")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: Out Of Memory"), "out of memory (JaxRuntimeError: "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory (RuntimeError: "),
        (MemoryError(), "out of memory (MemoryError)"),
        (InputError("a.png: out of memory"), "a.png: out of memory"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_exceptions(error, expected):
    assert failures.describe(error).startswith(expected)


def test_packages_that_are_not_installed():
    assert failures.not_installed(("json", "no_a", "no_b")) == 'no_a and no_b not installed: pip install -e ".[test]"'
    assert failures.not_installed(("json",)) is None
