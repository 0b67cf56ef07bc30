"""The metrics of a run: `metrics.csv`, one row per step."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file

COLUMNS = ("step", "loss", "gradient_norm", "sigma")


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step: its number (from 1), mean loss, gradient norm before clipping, and mean sigma of the clips."""

    step: int
    loss: float
    gradient_norm: float
    sigma: float


class Metrics:
    """`metrics.csv` of a run, appended row by row.

    Args:
        path: the file.
        done: number of steps done. Rows of later steps, left by a killed run, are dropped.

    Raises:
        InputError: rows of finished steps are missing, or the file can't be read or written.
    """

    def __init__(self, path: Path, done: int):
        self.path = path
        self.rows = [row for row in read(path) if row.step <= done] if path.exists() else []
        if [row.step for row in self.rows] != list(range(1, done + 1)):
            raise InputError(f"{path}: {len(self.rows)} rows up to step {done}, expected one per step: the file was changed")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for row in self.rows)
        with new_file(path) as temporary:
            temporary.write_text(text.getvalue())
        with self._writing():
            self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

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


def read(path: Path) -> list[StepMetrics]:
    """The rows of a `metrics.csv`, without an incomplete last row.

    Raises:
        InputError: the file can't be read, or has other columns.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: can't be read: {e}") from None
    table = list(csv.reader(line for line in lines if line.endswith("\n")))
    if not table or tuple(table[0]) != COLUMNS:
        raise InputError(f"{path}: begins with {table[0] if table else 'nothing'}, expected {','.join(COLUMNS)}")
    try:
        return [StepMetrics(int(cells[0]), *map(float, cells[1:])) for cells in table[1:]]
    except (ValueError, TypeError, IndexError) as e:
        raise InputError(f"{path}: has a row that is not {','.join(COLUMNS)}: {e}") from None


def _cells(row: StepMetrics) -> list[Any]:
    # repr is the shortest text that gives the same number again
    return [row.step, *(repr(x) for x in (row.loss, row.gradient_norm, row.sigma))]
