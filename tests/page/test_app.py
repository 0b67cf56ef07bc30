"""The options of `sample.app`, and the page that it serves."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from sample.app import main
from sample.page import options


@pytest.fixture
def with_gradio(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--port", "0"], "--port is 0, expected a number from 1 to 65535"),
        (["--host", "no such host"], "--host 'no such host': not an address of this computer, expected one such as 127.0.0.1"),
        (["--host", "192.0.2.1"], "--host: 192.0.2.1:7860 can't be used"),
        (["--model", "missing"], "missing: no such folder"),
        (["--backward", "missing"], "missing: "),
        (["--memory", "-1"], "argument --memory: is '-1', expected a number of GiB above 0"),
    ],
)
def test_bad_options_are_one_line(words, line, capsys, with_gradio, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_a_port_in_use(capsys):
    with socket.create_server((options.LOCAL, 0)) as server:
        port = server.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"error: --port: 127.0.0.1:{port} can't be used (address already in use)" in capsys.readouterr().err


def test_gradio_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(options, "check_address", lambda *_: None)
    assert main([]) == 2
    assert capsys.readouterr().err == 'error: gradio is not installed, but the page needs it: pip install -e ".[app]"\n'
