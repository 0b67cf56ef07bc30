"""What the page does with its inputs; `layout` connects these functions to its controls."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sample import console, interpolation_options
from sample.batches.request import CheckedOptions
from sample.page import controls, jobs, keyframes, options, status
from sample.page.controls import NAMES
from sample.page.jobs import Job, Jobs
from sample.page.options import PageRequest
from svdjax.config import SVDConfig
from svdjax.errors import InputError, one_line
from svdjax.frame_rate.sampling import rate_evaluations
from svdjax.frame_rate.windows import frames_at_rate
from svdjax.runtime import cli
from svdjax.sampling.methods import run_of

VIDEO, SHEET = interpolation_options.DEFAULT_OUT, "sheet.png"
SHOWN = 384  # pixels: a video with a smaller longer side is enlarged by a whole number
INTERVAL = 0.4  # seconds between two looks at a job


class Page:
    """The handlers of the page.

    Args:
        request: the command line.
        queue: makes the videos.
        folder: for the files of jobs; the caller removes it.
    """

    def __init__(self, request: PageRequest, queue: Jobs, folder: Path):
        self.request = request
        self.queue = queue
        self.folder = folder
        self._jobs: dict[str, Job] = {}  # the latest job of each tab

    def describe(self, files: Sequence[str], values: Sequence[Any]) -> tuple[str, str, str]:
        """Look at the inputs before a run.

        Args:
            files: paths of the uploaded keyframes.
            values: of the controls `controls.NAMES`.

        Returns:
            HTML of the keyframes and of what the video will take, and the command to copy.
        """
        chosen = dict(zip(NAMES, values, strict=True))
        size, command = None, ""
        try:
            words = controls.words_of(chosen, self.request)
            args = self._arguments([*files, "first.png", "last.png"][: max(len(files), 2)], words, self.folder)
            source = self.request.source_for(args.method or "dual")
            shape = keyframes.first_shape(files) or (*source.config.default_size[::-1], 3)
            checked = interpolation_options.check(args, source, shape, probe=False)
            size, command = checked.size, options.command_text(words, [Path(path).name for path in args.keyframes])
            cost = self._cost(checked, args, source.config)
        except (InputError, OSError) as e:
            cost = status.error(line_of(e, files))
        try:
            strip = keyframes.strip(files, size, chosen["fit"])
        except (InputError, OSError) as e:
            strip = status.error(line_of(e, files))
        return strip, cost, command

    def _arguments(self, files: Sequence[str], words: Sequence[str], folder: Path) -> argparse.Namespace:
        """Parsed options of `sample.interpolate` with its files in `folder`."""
        outputs = [f"--out={folder / VIDEO}", f"--sheet={folder / SHEET}"]
        args = interpolation_options.parser().parse_args([*outputs, *words, "--", *files])
        interpolation_options.check_arguments(args)
        return args

    def _cost(self, checked: CheckedOptions, args: argparse.Namespace, config: SVDConfig) -> str:
        """HTML of what a video will be and take."""
        (width, height), settings = checked.size, checked.settings
        pairs = len(args.keyframes) - (not args.loop)
        frames = (frames_at_rate(settings.num_frames, args.rate) - 1) * pairs + (not args.loop)
        each = run_of(checked.method, settings, config.scheduler).evaluations
        evaluations = pairs * (each + rate_evaluations(settings.num_frames, args.rate, config.scheduler))
        pace = self.queue.pace.seconds(config, (height, width, 3), checked.method, settings)
        time = "" if pace is None else f", about {console.duration(pace * evaluations)}"
        length = f"{float(frames / checked.rate):.1f} s of video"
        return (
            f'<p class="cost">{frames} frames of {width}x{height}, {length}: {evaluations} evaluations of the model{time}</p>'
        )

    def submit(self, files: Sequence[str], values: Sequence[Any], tab: str) -> Job:
        """Check the inputs, read the keyframes, and put the job into the queue.

        Args:
            files, values: see `describe`.
            tab: the name of the browser's tab.

        Raises:
            InputError: see `sample.interpolate`.
        """
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.folder))
        try:
            words = controls.words_of(dict(zip(NAMES, values, strict=True)), self.request)
            args = self._arguments(files, words, folder)
            request = interpolation_options.request_of(args, self.request.source_for(args.method or "dual"))
            scale = max(1, SHOWN // max(request.keyframes[0].shape[:2]))
            job = Job(dataclasses.replace(request, scale=scale), folder)
            self.queue.submit(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._jobs[tab] = job
        return job

    async def run(self, files: Sequence[str], values: Sequence[Any], tab: str) -> AsyncIterator[tuple[str, Job | None]]:
        """Make a video: yields HTML of its status, and the job in its present state, or None if it was refused."""
        try:
            job = await asyncio.to_thread(self.submit, files, values, tab)
        except (InputError, OSError, MemoryError) as e:
            yield status.error(line_of(e, files)), None
            return
        try:
            shown = None
            while job.state not in jobs.ENDED:
                now = job.state, job.done, job.cancelling, self.queue.before(job)
                if now != shown:
                    shown = now
                    yield await asyncio.to_thread(status.of_job, job, self.queue), job
                await asyncio.sleep(INTERVAL)
            yield status.of_job(job, self.queue), job
        finally:  # also if the tab was closed
            job.cancel()
            shutil.rmtree(job.folder, ignore_errors=True)

    def cancel(self, tab: str) -> None:
        """Cancel the job of a tab, if it has one; also called when the tab is closed."""
        if tab in self._jobs:
            self._jobs.pop(tab).cancel()


def line_of(error: Exception, files: Sequence[str]) -> str:
    """One line for an error, with names of uploaded files in place of their paths."""
    return keyframes.without_folders(cli.describe(error) or one_line(error), files)
