"""TensorBoard event files with the metrics of a run."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from train.run.metrics_table import StepMetrics
from train.run.side_files import SideFiles


class TensorBoardWriter:
    """Writes an event file; does nothing if the package `tensorboard` is not installed. After an error, which is reported as a
    warning, it writes nothing more.

    The events are written by this thread: an error in the thread of TensorBoard's own writer prints a traceback.

    Args:
        folder: for the event file.
        done: number of steps done. TensorBoard then hides later steps of an earlier file.
        side_files: prints the warning.
    """

    def __init__(self, folder: Path, done: int, side_files: SideFiles):
        self._folder, self._side_files = folder, side_files
        self._file: Any = None
        try:
            # classes that protobuf creates at run time, unknown to type checkers
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        except Exception as e:  # such as protobuf's TypeError for generated code of another version
            side_files.warn(folder, e)
            return
        self._event, self._summary = Event, Summary
        with side_files.or_warn(folder):
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._file = RecordWriter((folder / name).open("wb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if done:
            self._write(Event(wall_time=time.time(), step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: StepMetrics, clips_per_second: float) -> None:
        """Write the metrics of one step."""
        if self._file is None:
            return
        values = {
            "loss": row.loss,
            "gradient_norm": row.gradient_norm,
            "sigma": row.sigma,
            "clips_per_second": clips_per_second,
        }
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(self._event(wall_time=time.time(), step=row.step, summary=summary))

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # the error of the last write has been reported
                file.close()

    def _write(self, event: Any) -> None:
        if self._file is None:
            return
        try:
            self._file.write(event.SerializeToString())
            self._file.flush()
        except Exception as e:
            self._side_files.warn(self._folder, e)
            self.close()
