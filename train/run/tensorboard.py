"""TensorBoard event files with the metrics of a run."""

from __future__ import annotations

from pathlib import Path

from train.run.metrics import StepMetrics


class TensorBoardWriter:
    """Writes event files; does nothing if the package `tensorboard` is not installed.

    Args:
        folder: for the event files.
        done: number of steps done. TensorBoard then hides later steps of an earlier file.
    """

    def __init__(self, folder: Path, done: int):
        try:
            # classes that protobuf creates at run time, unknown to type checkers
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            self._writer = None
            return
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if done:
            self._writer.add_event(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: StepMetrics, clips_per_second: float) -> None:
        """Write the metrics of one step."""
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
