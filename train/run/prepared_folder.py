"""The locked folder of a run, with the settings of this command and the table of the data."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from svdjax.data import report, scan_records
from svdjax.data.scan import ScanResult
from svdjax.data.scan_records import ScanRecords
from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.parallel.main_process import on_main, say
from train.run import complete_checkpoints, run_folder
from train.run.run_folder import CHECKPOINTS, DATA, METRICS, SCAN, SETTINGS
from train.run.side_files import SideFiles

WAIT = 10.0  # seconds until a network file system shows a new file to another host


@contextlib.contextmanager
def prepared(
    out: Path, settings: Mapping[str, Any], sources: ScanResult, records: ScanRecords, *, resumed: bool
) -> Iterator[None]:
    """Create the run's folder, or check the settings of the run to resume. Process 0 holds its lock inside the context.

    Args:
        out: the folder.
        settings: everything that determines the run's results.
        sources, records: see `svdjax.data.scan.scan`.
        resumed: whether the folder holds a run, which is continued.

    Raises:
        InputError: another process uses the folder, its run has other settings, it can't be written, or not all processes of
            this run see the same folder.
    """
    with contextlib.ExitStack() as lock:

        def prepare() -> None:
            if not resumed:
                run_folder.make(out)
            lock.enter_context(run_folder.locked(out))
            if not resumed and run_folder.has_steps(out):
                raise InputError(f"{out}: another process has just started a run there")
            if (wanted := _settings_to_write(out, settings) if resumed else settings) is not None:
                run_folder.write_settings(out, wanted)
            side_files = SideFiles()
            with side_files.or_warn(out / DATA):
                report.write_csv(sources, out / DATA)
            with side_files.or_warn(out / SCAN):
                scan_records.write(records, out / SCAN)

        on_main(prepare)  # an error of process 0 is raised by all
        _check_shared(out)
        yield


def _check_shared(out: Path) -> None:
    """Check that all processes see the same folder: each of them writes a part of a checkpoint."""
    if jax.process_count() == 1:
        return
    mark = Path(on_main(lambda: run_folder.mark(out)))
    seen = cluster.gather_json((str(out), _appears(out / mark.name)))
    if cluster.is_main():
        mark.unlink(missing_ok=True)
    for process, (path, found) in enumerate(seen):
        if not found:
            raise InputError(
                f"--out {path}: process {process} doesn't find there what process 0 wrote to {seen[0][0]}: "
                "all processes need the same folder"
            )


def _appears(path: Path) -> bool:
    """Whether a file exists, or does so soon."""
    end = time.monotonic() + WAIT
    while True:
        for folder in (path.parent.parent, path.parent):  # opening a folder renews what a network file system remembers of it
            with contextlib.suppress(OSError):
                os.scandir(folder).close()
        if path.exists() or time.monotonic() > end:
            return path.exists()
        time.sleep(0.2)


def _settings_to_write(out: Path, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings to write to `run.json` of a run to resume; None if it has these already.

    Raises:
        InputError: the run has trained weights and other settings.
    """
    file = out / SETTINGS
    before = run_folder.read_settings(out)
    if run_folder.has_weights(out):
        done = max(complete_checkpoints.saved_steps(out / CHECKPOINTS), default=0)
        if before is not None:
            run_folder.check_same_settings(before, settings, out, done)
            return None
        step, saved = complete_checkpoints.newest_settings(out / CHECKPOINTS)
        run_folder.check_same_settings(saved, settings, out, done)
        say(f"{file}: is missing or damaged: written again, with the settings stored with the checkpoint of step {step}")
        return saved
    # Without weights the run starts again from step 1, so other settings do no harm, but the metrics are of the old ones.
    if before is not None:
        try:
            run_folder.check_same_settings(before, settings, out)
            return None
        except InputError as e:
            say(f"{e}; it has no checkpoint, so a new run starts there")
    say(f"{out / METRICS}: kept as {run_folder.keep_aside(out / METRICS).name}")
    return settings
