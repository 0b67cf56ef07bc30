"""Messages between the report and the processes of its parts: a request as JSON, results as lines of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from sample.gpu_report.failures import describe
from svdjax.config import SVDConfig


@dataclass(frozen=True, kw_only=True)
class Request:
    """Settings of all parts.

    Attributes:
        config: shapes of the model.
        model: name of a preset, or the value of `--model`.
        size: (width, height) of the clip in pixels.
        num_frames: frames of the clip.
        dtype: dtype of weights and computation.
        repeats: timed runs of a step.
        gpu: whether JAX's default device is a GPU.
        memory_bytes: memory of the device; None if JAX doesn't know it.
        folder: the folder of the report.
    """

    config: SVDConfig
    model: str
    size: tuple[int, int]
    num_frames: int
    dtype: str
    repeats: int
    gpu: bool
    memory_bytes: int | None
    folder: str

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps({**dataclasses.asdict(self), "config": self.config.to_json()})

    @classmethod
    def from_text(cls, text: str) -> Request:
        values = json.loads(text)
        return cls(**{**values, "config": SVDConfig.from_json(values["config"]), "size": tuple(values["size"])})


class Reporter:
    """The end of a channel in the process of a part.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def progress(self, text: str) -> None:
        """Tell the user what is being done."""
        self._send("progress", text)

    def results(self, values: Mapping[str, Any]) -> None:
        """Add values to the report, by key."""
        self._send("results", dict(values))

    def note(self, text: str) -> None:
        """Add a line to the report."""
        self._send("note", text)

    def error(self, error: Exception) -> None:
        """Report that the part failed."""
        self._send("error", describe(error))

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Report an error of the block as a note instead of raising it: the results of the part so far are kept."""
        try:
            yield
        except Exception as e:
            traceback.print_exc()
            self.note(f"{what}: {describe(e)}")

    def _send(self, kind: str, value: Any) -> None:
        self._stream.write(json.dumps({kind: value}) + "\n")
        self._stream.flush()


def begin() -> tuple[Request, Reporter]:
    """Open the channel in the process of a part. Other output to standard output goes to standard error from now on.

    The process, with its own processes, ends when the report's process does.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = Request.from_text(sys.stdin.readline())

    def end_with_report() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_report, daemon=True).start()
    return request, Reporter(stream)
