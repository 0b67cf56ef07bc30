"""Why something can't be measured, in one line: missing packages, exceptions, ended processes."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterable

from svdjax.errors import InputError, one_line
from svdjax.runtime import cli

PYTORCH = ("torch", "diffusers")  # of the extra `test`
LONGEST = 400  # characters of another library's error
_ERROR = "error: "  # begins the line of `svdjax.runtime.cli.run`
# In messages or names of exceptions of XLA, PyTorch and NumPy, on GPUs and CPUs, in lower case
_OUT_OF_MEMORY = (
    "resource_exhausted",
    "outofmemoryerror",
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "memoryerror",
)


def not_installed(packages: Iterable[str]) -> str | None:
    """The packages that aren't installed, with what to do; None if all are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f'{" and ".join(missing)} not installed: pip install -e ".[test]"' if missing else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a library's exception means that memory of the device or the host ran out."""
    text = f"{type(error).__name__}: {error}".lower()
    return any(part in text for part in _OUT_OF_MEMORY)


def describe(error: Exception) -> str:
    """One line for an exception; memory errors of all libraries read the same."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if not isinstance(error, InputError) and is_out_of_memory(error):
        return f"out of memory ({one_line(text, LONGEST // 2)})"
    return cli.describe(error) or one_line(text, LONGEST)


def ended(status: int) -> str | None:
    """Why a part's process with this exit status failed; None if it didn't."""
    return _signalled(status) or (f"failed with exit status {status} (log.txt has its output)" if status else None)


def of_command(status: int, stderr: str) -> str:
    """Why one of our commands, or a module run as a program, failed.

    Args:
        status: its exit status, not 0; negative numbers are signals.
        stderr: all that it wrote to standard error. Its last line may be advice of a library, or a task that had begun.
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    begins = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    # calls are indented; then comes the exception, and after it the advice
    raised = next((line for line in lines[begins[-1] + 1 :] if not line[0].isspace()), None) if begins else None
    reason = _signalled(status) or (errors[-1] if errors else raised)
    return one_line(reason or f"exit status {status}: {lines[-1] if lines else 'no output'}", LONGEST)


def _signalled(status: int) -> str | None:
    if status == -signal.SIGKILL:
        return "killed by the system, probably for lack of host memory"
    return f"crashed: {signal.Signals(-status).name}" if status < 0 else None
