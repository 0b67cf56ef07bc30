"""Make many clips with one model: the rows of a table, or the frames between those of a folder."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from sample import interpolation_options, sampling_options
from sample.batches import numbered_frames, options, pairs_file
from sample.batches.claims import Claims
from sample.batches.jobs import Checked, Find, check_rows
from sample.batches.making import make
from sample.batches.pairs_file import Row
from svdjax.errors import InputError
from svdjax.kernels.choice import using
from svdjax.model_sources import ModelSource
from svdjax.runtime import memory_option

MOST_LINES = 20  # errors of rows printed one by one before the work


def run(args: argparse.Namespace) -> None:
    """Make the clips of `--pairs`, or of `--frames-in`.

    Raises:
        InputError: the table or folder can't be used; or, after all other clips were made, clips that failed.
    """
    options.check_batch(args)
    place = options.join(args)
    claims = Claims(place.shared, place.identity)
    memory_option.take_share(args.memory)
    find = models(args.model)
    if args.pairs is not None:
        make_all(pairs_file.read(args.pairs, interpolation_options.parser(), args), args, find, claims)
        return
    footage, notes = numbered_frames.plan(args, find)
    print(*notes, sep="\n" if notes else "", end="\n" if notes else "", flush=True)
    if footage.before is not None:
        differs = footage.differs()
        if differs is None:
            print(f"nothing to do: {footage.output.path} is there, made with these settings from these frames")
            return
        if not args.overwrite:
            raise InputError(f"{footage.output.path}: exists already, {differs} (--overwrite replaces it)")
    make_all(footage.rows, args, find, claims, footage.done)
    with claims.take([footage.output.path], lambda _: footage.done(), leave_to_others=True) as units:
        for (path,) in units:
            footage.join()
            print(f"wrote {path}, joined from {len(footage.rows)} clips", flush=True)


def make_all(
    rows: Sequence[Row], args: argparse.Namespace, find: Find, claims: Claims, finished: Callable[[], bool] = lambda: False
) -> None:
    """Make the clips of all rows; see `run` and `make`."""
    checked = check_rows(rows, find)
    try:
        _report(checked, len(rows))
        failures = checked.errors
        if checked.jobs:
            with using(args.kernels):
                failures = [*failures, *make(checked.jobs, args, claims, finished)]
    finally:
        checked.remove_unused()
    if failures:
        where = args.pairs or args.frames_in
        raise InputError(f"{where}: {len(failures)} of {len(rows)} pairs failed, see above; the same command tries them again")


def models(model: str | None) -> Find:
    """A function that finds the model for a method once, and prints its notes once."""
    notes: set[str] = set()

    @functools.cache
    def find(method: str) -> ModelSource:
        source, note = sampling_options.find(model, method)
        if note is not None and note not in notes:
            notes.add(note)
            print(note, flush=True)
        return source

    return find


def _report(checked: Checked, rows: int) -> None:
    """Print the rows that can't be used, and how many are to be made."""
    for line in checked.errors[:MOST_LINES]:
        print("error:", line, file=sys.stderr, flush=True)
    if (more := len(checked.errors) - MOST_LINES) > 0:
        print(f"error: and {more} more rows", file=sys.stderr, flush=True)
    parts = [f"{checked.done} made before", f"{len(checked.jobs)} to make", f"{len(checked.errors)} can't be used"]
    print(f"{rows} pairs: {', '.join(parts)}", flush=True)
