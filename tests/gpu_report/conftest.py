"""A small request, and a reporter whose messages a test can read."""

from __future__ import annotations

import io
import json

import benchmark_model
import pytest

from sample.gpu_report.channel import Reporter, Request


@pytest.fixture
def small():
    """A function that makes a request with other values of some fields."""

    def request(**changes) -> Request:
        values = {
            "config": benchmark_model.TINY,
            "model": "tiny",
            "size": (24, 16),
            "num_frames": 3,
            "dtype": "float32",
            "repeats": 1,
            "gpu": False,
            "memory_bytes": None,
            "folder": "",
        }
        return Request(**{**values, **changes})

    return request


@pytest.fixture
def sent():
    """A reporter, and a function that returns the values that it has sent of one kind: progress, results or note."""
    stream = io.StringIO()

    def values(kind: str) -> list:
        messages = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [message[kind] for message in messages if kind in message]

    return Reporter(stream), values


@pytest.fixture
def reported(sent):
    """A reporter, and a function that returns all results that it was given, and no note."""
    reporter, values = sent

    def results() -> dict:
        assert not values("note") + values("error")
        return {key: value for found in values("results") for key, value in found.items()}

    return reporter, results
