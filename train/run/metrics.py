"""The numbers of a run: `metrics.csv`, one row a step, and what is drawn from it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file

COLUMNS = ("step", "loss", "gradient_norm", "sigma")


@dataclass(frozen=True)
class Row:
    """One step: its number from 1, the loss, the norm of its gradient before clipping, and the clips' mean sigma."""

    step: int
    loss: float
    gradient_norm: float
    sigma: float


class Metrics:
    """`metrics.csv` of a run, appended row by row; a context manager.

    Args:
        path: the file.
        done: steps that the run has behind it. Rows of later steps, which a killed run may have left, are dropped.

    Raises:
        InputError: the file lacks rows of steps that are done, or can't be read or written.
    """

    def __init__(self, path: Path, done: int):
        self.path = path
        self.rows = [row for row in read(path) if row.step <= done] if path.exists() else []
        if [row.step for row in self.rows] != list(range(1, done + 1)):
            raise InputError(f"{path}: {len(self.rows)} rows up to step {done}, expected one for each: it was changed or lost")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for row in self.rows)
        with new_file(path) as temporary:
            temporary.write_text(text.getvalue())
        try:
            self._file = path.open("a", newline="")
        except OSError as e:
            raise InputError(f"{path}: can't be written: {e.strerror}") from None
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # of a row that was reported already
            self._file.close()

    def sync(self) -> None:
        """Wait until all rows are on the disk itself, as a checkpoint's steps must be: a host may crash."""
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            raise InputError(f"{self.path}: can't be written: {e.strerror}; --resume goes on") from None

    def add(self, row: Row) -> None:
        """Append a row; it is in the file at once."""
        self.rows.append(row)
        try:
            self._writer.writerow(_cells(row))
            self._file.flush()
        except OSError as e:
            raise InputError(f"{self.path}: can't be written: {e.strerror}; --resume goes on") from None


def read(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`, without a last one that was cut off.

    Raises:
        InputError: it is no such file.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: can't be read: {e}") from None
    table = list(csv.reader(line for line in lines if line.endswith("\n")))
    if not table or tuple(table[0]) != COLUMNS:
        raise InputError(f"{path}: begins with {table[0] if table else 'nothing'}, expected {','.join(COLUMNS)}")
    try:
        return [Row(int(cells[0]), *map(float, cells[1:])) for cells in table[1:]]
    except (ValueError, TypeError, IndexError) as e:
        raise InputError(f"{path}: has a row that is not {','.join(COLUMNS)}: {e}") from None


def _cells(row: Row) -> list[Any]:
    # repr is the shortest text that gives the same number again
    return [row.step, *(repr(x) for x in (row.loss, row.gradient_norm, row.sigma))]
