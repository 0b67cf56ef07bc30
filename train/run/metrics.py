"""The metrics of a run: `metrics.csv`, one row per step."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file
from train.run import run_folder
from train.run.metrics_table import COLUMNS, StepMetrics, read


class Metrics:
    """`metrics.csv` of a run, appended row by row.

    Only a checkpoint is needed to resume. So the rows of an old file are kept where they can be read, even if another program
    has saved it, and a file that doesn't hold exactly what this class wrote is kept under another name.

    Args:
        path: the file.
        done: number of steps done. Rows of later steps, left by a killed run, are dropped; with 0, the whole file is kept under
            another name.

    Attributes:
        note: a line about a file that was changed or lost, or None.

    Raises:
        InputError: the file can't be written.
    """

    def __init__(self, path: Path, done: int):
        self.path = path
        found = read(path) if os.path.lexists(path) else None
        rows = {} if found is None else {row.step: row for row in found.rows if 1 <= row.step <= done}
        self.rows = [rows[step] for step in sorted(rows)]
        if found is not None and found.rows and not done:
            self.note = f"{path}: kept as {run_folder.keep_aside(path).name}: the run starts again from step 1"
        else:
            self.note = self._note(found.problem if found else "is missing" if done else None, done)
        with new_file(path) as temporary:
            temporary.write_bytes(as_csv(self.rows).encode())
        with self._writing():
            self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def _note(self, problem: str | None, done: int) -> str | None:
        """Keep a changed file under another name, and describe it."""
        missing = done - len(self.rows)
        if problem is None:
            return f"{self.path}: has no rows for {missing} of {done} steps" if missing else None
        note = f"{self.path}: {problem}: continued with the rows of {len(self.rows)} of {done} steps"
        if os.path.lexists(self.path):
            note += f", and kept as {run_folder.keep_aside(self.path).name}"
        return note

    def close(self) -> None:
        with contextlib.suppress(OSError):  # for this row `add` has already raised the error
            self._file.close()

    def sync(self) -> None:
        """Wait until all rows are physically on disk: a checkpoint needs the rows of its steps, even after a crash."""
        with self._writing():
            os.fsync(self._file.fileno())

    def add(self, row: StepMetrics) -> None:
        """Append a row; the file has it immediately."""
        self.rows.append(row)
        with self._writing():
            self._writer.writerow(_cells(row))
            self._file.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise InputError(f"{self.path}: can't be written: {e.strerror}; --resume continues") from None


def as_csv(rows: Sequence[StepMetrics]) -> str:
    """The text of a `metrics.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in rows)
    return text.getvalue()


def _cells(row: StepMetrics) -> list[Any]:
    # repr is the shortest text that gives the same number again
    return [row.step, *(repr(x) for x in (row.loss, row.gradient_norm, row.sigma))]
