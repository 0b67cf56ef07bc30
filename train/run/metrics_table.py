"""Reader for `metrics.csv`, also after a spreadsheet or an editor has saved it in its own way."""

from __future__ import annotations

import codecs
import csv
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from svdjax.errors import one_line


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step: its number (from 1), mean loss, gradient norm before clipping, and mean sigma of the clips."""

    step: int
    loss: float
    gradient_norm: float
    sigma: float


@dataclass(frozen=True)
class Table:
    """Rows of a file, at most one per step, in any order; and why it isn't as the training run wrote it, or None if it is."""

    rows: list[StepMetrics]
    problem: str | None = None


COLUMNS = tuple(field.name for field in fields(StepMetrics))
_ROW = re.compile(r"[0-9]+(,[^,\"\s;]+){3}")  # as the training run writes it


def read(path: Path) -> Table:
    """Read a file, as far as it can be read; it may be damaged, or hold anything else."""
    try:
        text = _decoded(path.read_bytes())
    except OSError as e:
        return Table([], f"can't be read ({e.strerror or e})")
    header, *lines = text.split("\n")
    if lines and not _is_whole(lines[-1]):
        lines.pop()
    if header == ",".join(COLUMNS) and all(map(_ROW.fullmatch, lines)):
        try:
            rows = [_row(line.split(","), range(len(COLUMNS)), ",") for line in lines]
        except ValueError:
            pass
        else:
            if [row.step for row in rows] == sorted({row.step for row in rows}):
                return Table(rows)
    return _foreign(text)


def _is_whole(line: str) -> bool:
    """Whether a line without a line break is a whole row for certain. A killed run leaves a part of one."""
    if not _ROW.fullmatch(line):
        return False
    # The values are float32, so the first ten or more characters of a longer number are not the text of another value.
    last = line.rpartition(",")[2]
    try:
        return len(last) >= 10 and repr(float(np.float32(last))) == last
    except ValueError:
        return False


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8", errors="replace")


def _foreign(text: str) -> Table:
    """Read a file that another program has saved: other separators, decimal commas, quotes, columns or rows in any order."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not "".join(lines).strip("\0 "):
        return Table([], "is empty")
    for separator in (",", ";", "\t"):
        try:
            header, *table = csv.reader(lines, delimiter=separator)
        except (csv.Error, ValueError):
            continue
        names = [name.strip().casefold() for name in header]
        if not set(COLUMNS) <= set(names):
            continue
        order = [names.index(name) for name in COLUMNS]
        rows, wrong = {}, 0
        for cells in table:
            try:
                row = _row(cells, order, separator)
                rows.setdefault(row.step, row)
            except (ValueError, IndexError):
                wrong += any(cells)
        problem = "was saved by another program" if not wrong else f"has {wrong} line{'s' * (wrong != 1)} that can't be read"
        return Table(list(rows.values()), problem)
    return Table([], f"begins with {one_line(lines[0], 40)!r}, expected {','.join(COLUMNS)}")


def _row(cells: list[str], order: list[int] | range, separator: str) -> StepMetrics:
    """A row from its cells; `order` holds the places of the columns.

    Raises:
        ValueError: a cell is not a number.
        IndexError: there are too few cells.
    """
    step, *values = (_number(cells[place], separator) for place in order)
    if not step.is_integer() or step < 1 or not all(map(math.isfinite, values)):
        raise ValueError(step)
    return StepMetrics(int(step), *values)


def _number(text: str, separator: str) -> float:
    """A number, also with a decimal comma where commas don't separate columns, or in quotes."""
    text = text.strip()
    if "," in text and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:  # which Python allows in numbers
        raise ValueError(text)
    return float(text)
