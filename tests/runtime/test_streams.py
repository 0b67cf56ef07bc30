"""A closed, full or narrow output stream costs no result."""

import errno
import io
import os
import subprocess
import sys

import pytest

from svdjax.runtime import cli, streams
from svdjax.runtime.streams import SafeStream


class Failing(io.StringIO):
    """A stream whose writes fail."""

    def __init__(self, error):
        super().__init__()
        self.error, self.tries = error, 0

    def write(self, text):
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "I/O error"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_failing_writes_are_dropped(error):
    stream = Failing(error)
    safe = SafeStream(stream)
    print("a", "b", file=safe)
    safe.writelines(["c", "d"])
    safe.flush()
    assert stream.tries == 1  # after the first failure nothing is tried again


def test_no_stream():
    safe = SafeStream(None)
    print("a", file=safe, flush=True)
    assert not safe.isatty()
    assert safe.encoding == "utf-8"


def test_closed_stream():
    stream = io.StringIO()
    stream.close()
    safe = SafeStream(stream)
    print("a", file=safe, flush=True)
    assert not safe.isatty()


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "café 100 %|██", b"caf\\xe9 100 %|\\u2588\\u2588"),
        ("utf-8", "caf\udce9.png", b"caf\\xe9.png"),
        ("latin-1", "café →", b"caf\xe9 \\u2192"),
    ],
)
def test_characters_that_the_encoding_lacks(encoding, text, expected):
    raw = io.BytesIO()
    safe = SafeStream(io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    safe.write(text)
    safe.flush()
    assert raw.getvalue() == expected


def test_streams_of_a_command(monkeypatch):
    """The streams are replaced while a command runs, and only then."""
    stream = Failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    monkeypatch.setattr(sys, "stdout", stream)
    done = []

    def command(argv):
        print("a line that nobody reads")
        done.append("the result")

    assert cli.run(command, []) == 0
    assert done == ["the result"]
    assert sys.stdout is stream


PROGRAM = """
from svdjax.runtime import startup
startup.begin()
import sys
from svdjax.runtime import cli
def command(argv):
    for i in range(9999):
        print("line", i)
        print("more", i, file=sys.stderr)
    with open(sys.argv[1], "x") as file:
        file.write("the result")
cli.leave(cli.run(command, []))
"""


@pytest.mark.parametrize("redirection", ["| head -1", ">/dev/full", "2>/dev/full >/dev/full", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_process_with_broken_streams(tmp_path, redirection):
    """The result is written, without other text in it, and the exit status is that of success."""
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(PROGRAM)
    line = f"'{sys.executable}' '{program}' '{out}' {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"Error" not in done.stderr
    assert out.read_text() == "the result"


def test_descriptors_of_closed_streams(monkeypatch):
    """Files get numbers above those of the standard streams."""
    opened = iter([1, 2, 7])
    closed = []
    monkeypatch.setattr(os, "open", lambda path, flags: next(opened))
    monkeypatch.setattr(os, "close", closed.append)
    streams.open_closed_descriptors()
    assert closed == [7]
