"""A platform that JAX can't use is refused in one line."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from svdjax.runtime import cli
from svdjax.runtime.dtypes import compute_dtype
sys.exit(cli.run(lambda argv: print(compute_dtype()), []))
"""


@pytest.mark.parametrize(
    ("platform", "parts"),
    [
        ("cuda", ["error: JAX_PLATFORMS=cuda: JAX can't use this platform here", 'pip install -e ".[cuda]"']),
        ("tpux", ["error: JAX_PLATFORMS=tpux: JAX can't use this platform here", "set JAX_PLATFORMS=cpu"]),
    ],
)
def test_platform_that_is_not_there(platform, parts, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90)
    if done.returncode == 0:
        pytest.skip(f"{platform} is there")
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = errors
    for part in parts:
        assert part in line
