"""`--pairs`: a table of pairs of keyframes, each row a command line of `sample.interpolate`."""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sample.batches.options import PAIRS
from svdjax.errors import InputError
from svdjax.runtime import cli, paths

FIRST, LAST, OUTPUT = REQUIRED = "first", "last", "output"
# Options of the whole run: the model, the device, and where pairs come from.
_OF_THE_RUN = {"help", "demo", "model", "backward", "out", "overwrite", "pairs", "frames-in"}
_OF_THE_RUN |= {"dtype", "memory", "kernels", "mesh", "coordinator", "num-processes", "process-id"}
_YES, _NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: the file and the number of the row, from 1 for the names of the columns, as spreadsheets count.
        args: the options; None if they can't be used.
        error: why not.
    """

    label: str
    args: argparse.Namespace | None = None
    error: str = ""


def read(path: Path, parser: cli.Parser, base: argparse.Namespace) -> list[Row]:
    """Read a table.

    Args:
        path: a CSV file, UTF-8, separated by commas, semicolons or tabs.
        parser: of the command.
        base: the command's own options, for columns that are not there and empty cells.

    Raises:
        InputError: the file can't be read, has no rows, or has other columns than expected.
    """
    lines = _lines(path)
    actions = {name.removeprefix("--"): action for name, action in parser._option_string_actions.items() if name[:2] == "--"}
    known = [name for name in actions if name not in _OF_THE_RUN]
    columns = [name.strip().lower().replace("_", "-") for name in (lines[0] if lines else [])]
    for name in columns:
        if name not in (*REQUIRED, *known):
            expected = f"expected {', '.join(REQUIRED)} and any of {', '.join(known)}"
            found = f"{name} is an option of the whole run" if name in _OF_THE_RUN else f"unknown column {name!r}"
            raise InputError(f"{PAIRS} {path}: {found}, {expected}")
        if columns.count(name) > 1:
            raise InputError(f"{PAIRS} {path}: column {name} is there twice, expected once")
    if missing := [name for name in REQUIRED if name not in columns]:
        raise InputError(f"{PAIRS} {path}: no column {missing[0]}, expected {', '.join(REQUIRED)} in its first row")
    table = _Table(path=path, columns=columns, actions=actions, parser=parser, base=base)
    rows = [table.row(number, cells) for number, cells in enumerate(lines[1:], 2) if any(cell.strip() for cell in cells)]
    if not rows:
        raise InputError(f"{PAIRS} {path}: has no rows below the names of its columns")
    return rows


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as e:
        raise InputError(f"{PAIRS} {path}: can't be read ({e.strerror or e}), expected a CSV file") from None
    if "\0" in text:
        raise InputError(f"{PAIRS} {path}: is not text, expected a CSV file")
    delimiter = max(
        ",;\t", key=text.partition("\n")[0].count
    )  # spreadsheets write semicolons where a comma is the decimal point
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as e:
        raise InputError(f"{PAIRS} {path}: can't be read as CSV ({e})") from None


@dataclass(frozen=True, kw_only=True)
class _Table:
    path: Path
    columns: Sequence[str]
    actions: dict[str, argparse.Action]
    parser: cli.Parser
    base: argparse.Namespace

    def row(self, number: int, cells: Sequence[str]) -> Row:
        label = f"{self.path}, row {number}"
        try:
            return Row(label, self._parse(cells))
        except InputError as e:
            return Row(label, error=str(e).removesuffix(" (--help lists the options)"))

    def _parse(self, cells: Sequence[str]) -> argparse.Namespace:
        if len(cells) > len(self.columns):
            raise InputError(f"{len(cells)} cells, expected {len(self.columns)}, as many as columns")
        values = {name: cell.strip() for name, cell in zip(self.columns, cells, strict=False) if cell.strip()}
        if missing := [name for name in REQUIRED if name not in values]:
            raise InputError(f"no {missing[0]}, expected a path")
        files = {name: self._path(name, values.pop(name)) for name in REQUIRED}
        tokens, switches = [], {}
        for name, cell in values.items():
            action = self.actions[name]
            if action.nargs == 0:
                switches[action.dest] = _yes(name, cell)
            elif action.nargs is not None:
                tokens += [f"--{name}", *cell.split()]
            elif action.type in (paths.path, paths.path_text):
                tokens.append(f"--{name}={self._path(name, cell)}")
            else:
                tokens.append(f"--{name}={cell}")
        args = self.parser.parse_args(tokens, copy.copy(self.base))
        vars(args).update(switches)
        args.keyframes, args.out, args.pairs = [files[FIRST], files[LAST]], files[OUTPUT], None
        return args

    def _path(self, name: str, cell: str) -> str:
        """A path of a cell, relative to the folder of the table."""
        path = os.path.join(os.path.dirname(self.path), cell)
        try:
            paths.check_reachable(path)
        except InputError as e:
            raise InputError(f"{name}: {e}") from None
        return path


def _yes(name: str, cell: str) -> bool:
    if cell.lower() not in (*_YES, *_NO):
        raise InputError(f"{name} is {cell!r}, expected yes or no")
    return cell.lower() in _YES
