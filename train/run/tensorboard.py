"""The metrics for TensorBoard, where it is installed."""

from __future__ import annotations

from pathlib import Path

from train.run.metrics import Row


class Board:
    """Event files of a run, or nothing without the package `tensorboard`.

    Args:
        folder: for the event files.
        done: steps that the run has behind it; later ones of an earlier file are hidden.
    """

    def __init__(self, folder: Path, done: int):
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            self._writer = None
            return
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if done:
            self._writer.add_event(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: Row, clips_per_second: float) -> None:
        if self._writer is None:
            return
        values = {
            "loss": row.loss,
            "gradient_norm": row.gradient_norm,
            "sigma": row.sigma,
            "clips_per_second": clips_per_second,
        }
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(self._event(step=row.step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
