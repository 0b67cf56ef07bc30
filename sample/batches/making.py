"""Make the clips of a batch with one model, and report on each."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from sample import console, planned_model
from sample.batches.claims import Claims
from sample.batches.clip import evaluations_of, generate_together, write
from sample.batches.jobs import Job
from sample.batches.request import InterpolationRequest
from svdjax.config import EDMConfig
from svdjax.errors import InputError, one_line
from svdjax.models.svd import SVD
from svdjax.parallel.sampling_mesh import clips_together
from svdjax.runtime import cli, compilation_cache, memory_option
from svdjax.runtime.dtypes import compute_dtype
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import Settings

MOST_NOTES = 20  # notes on clips that are printed


def make(jobs: Sequence[Job], args: argparse.Namespace, claims: Claims, finished: Callable[[], bool]) -> list[str]:
    """Make clips, each written when it is complete; one that fails costs no other.

    Args:
        jobs: the clips.
        args: the command's options.
        claims: how they are shared with other processes.
        finished: whether another process has made the output that needs them, and removed them.

    Returns:
        A line for each clip that failed, in this process or another one.
    """
    compilation_cache.enable()
    # the embedded model's weights depend on the method
    by_weights = [_grouped(its, _likeness) for its in _grouped(jobs, lambda job: getattr(job.source, "backward", None))]
    targets = [job.target for groups in by_weights for alike in groups for job in alike]
    claims.forget_failures(targets)
    progress = _Progress(order={target: k for k, target in enumerate(targets)})
    failures: dict[Path, str] = {}
    for groups in by_weights:
        _make_with_one_model(groups, args, claims, finished, progress, failures)
    for target in targets:
        if target not in failures and (message := claims.failure(target)) is not None:
            failures[target] = message
            print("error: in another process:", message, file=sys.stderr, flush=True)
    seconds = console.duration(time.monotonic() - progress.started)
    others = f", {len(jobs) - progress.made - len(failures)} by other processes" if claims.shared else ""
    print(f"made {progress.made} of {len(jobs)} clips in {seconds}{others}, {len(failures)} failed", flush=True)
    return list(failures.values())


def _grouped(jobs: Sequence[Job], key: Callable[[Job], Hashable]) -> list[list[Job]]:
    """The jobs of each key, in the order of the first of each."""
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return list(groups.values())


def _make_with_one_model(
    groups: Sequence[Sequence[Job]],
    args: argparse.Namespace,
    claims: Claims,
    finished: Callable[[], bool],
    progress: _Progress,
    failures: dict[Path, str],
) -> None:
    """Make the clips of one model, those of one likeness after each other: only neighbours are sampled in one batch.

    Adds a line to `failures` for each that failed.

    Args:
        groups: the clips of each likeness.
        args, claims, finished, progress, failures: see `make`.
    """
    memory = memory_option.start(args.memory)
    jobs = [job for alike in groups for job in alike]
    source, works = jobs[0].source, {_kind(job): _work(job) for job in jobs}
    runs = [run_of(work["method"], work["settings"], source.config.scheduler) for work in works.values()]
    shapes = [(*work["size"], work["settings"].num_frames) for work in works.values()]
    mesh = planned_model.choose_mesh(args, source.config, runs, shapes, max(map(len, groups)))
    model, plans = planned_model.load_for_works(
        source, compute_dtype(args.dtype), memory, works, backward=args.backward, mesh=mesh
    )
    print(f"{compute_dtype(args.dtype)}, {planned_model.describe(mesh)}", flush=True)
    by_target = {job.target: job for job in jobs}
    maker = _Maker(model=model, plans=plans, together=clips_together(mesh, 1), progress=progress)
    units = claims.take(
        list(by_target),
        lambda target: finished() or by_target[target].done(),
        together=maker.together,
        kind=lambda target: _likeness(by_target[target]),
    )
    with units as found:
        for group in found:
            for target, message in maker.make([by_target[target] for target in group]).items():
                failures[target] = message
                print("error:", message, file=sys.stderr, flush=True)
                claims.fail(target, message)


@dataclass(kw_only=True)
class _Progress:
    """How far a batch is.

    Attributes:
        order: position of each target, from 0.
        made: number of clips made so far.
        started: `time.monotonic()` at the start.
    """

    order: Mapping[Path, int]
    made: int = 0
    started: float = field(default_factory=time.monotonic)
    notes: _Notes = field(default_factory=lambda: _Notes())

    def number(self, target: Path) -> str:
        """The number of a clip, such as `3 of 12`."""
        return f"{self.order[target] + 1} of {len(self.order)}"

    def left(self, target: Path) -> str:
        """How many clips are left after one, and about how long they take; other processes have made some before it, too."""
        number = self.order[target] + 1
        left = len(self.order) - number
        about = console.duration(left * (time.monotonic() - self.started) / number)
        return f"; {left} left, about {about}" if left else ""


@dataclass(kw_only=True)
class _Maker:
    """Makes clips.

    Attributes:
        model: loaded as `plans` requires.
        plans: by the kind of clips.
        together: clips sampled in one batch.
        progress: of the batch.
    """

    model: SVD
    plans: Mapping[Hashable, ClipPlan | None]
    together: int
    progress: _Progress

    def make(self, jobs: Sequence[Job]) -> dict[Path, str]:
        """Make clips of one likeness; returns a line for each that failed."""
        begun, failures, requests = time.monotonic(), dict[Path, str](), list[tuple[Job, InterpolationRequest]]()
        for job in jobs:
            with _failing([job], failures):
                requests.append((job, job.request()))
                self.progress.notes.show(requests[-1][1].notes)
        if not requests:
            return failures
        group, plan = [job for job, _ in requests], self.plans[_kind(jobs[0])]
        label = f"{one_line(group[0].target.name)} ({self.progress.number(group[0].target)})"
        results = []
        together: dict[Path, str] = {}
        with _failing(group, together), console.progress_bar(label, evaluations_of(requests[0][1])) as bar:
            asked = [request for _, request in requests]
            results = generate_together(asked, self.together, self.model, plan, bar)
        if not results and len(group) > 1:  # perhaps only one of them is to blame
            return failures | {target: text for job in group for target, text in self.make([job]).items()}
        failures |= together
        for (job, request), (movie, latents) in zip(requests, results, strict=False):
            if job.done():
                print(f"{job.target}: another process has made it", flush=True)
                continue
            metadata = request.metadata | ({} if plan is None else plan.as_text())
            with _failing([job], failures):
                write(dataclasses.replace(request, metadata=metadata), movie, latents, begun, self.progress.left(job.target))
                self.progress.made += 1
        return failures


@contextlib.contextmanager
def _failing(jobs: Sequence[Job], failures: dict[Path, str]) -> Iterator[None]:
    """Remember an error of the block for some clips, in one line each, instead of raising it."""
    try:
        with console.one_line_errors(f"{jobs[0].target} was not written"):
            yield
    except (InputError, OSError) as e:
        failures.update({job.target: one_line(f"{job.label}: {cli.describe(e) or e}") for job in jobs})


class _Notes:
    """Prints notes on clips once each, and not more than `MOST_NOTES`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def show(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self._seen and len(self._seen) <= MOST_NOTES:
                print(note if len(self._seen) < MOST_NOTES else "further notes are left out", flush=True)
                self._seen.add(note)


def _likeness(job: Job) -> Hashable:
    """Clips that are alike can be sampled in one batch: they differ in keyframes, draws and files."""
    settings, args = dataclasses.replace(job.checked.settings, seed=0), job.args
    return _kind(job), settings, args.rate, args.loop, args.keep_keyframes


def _kind(job: Job) -> Hashable:
    """Clips of one kind have the same plan: the same programs, with arguments of the same shapes.

    Guidance scales and noise levels are numbers in the arguments; steps and repetitions, the number of calls.
    """
    checked, settings = job.checked, dataclasses.replace(job.checked.settings, seed=0)
    noise = None if checked.noise is None else tuple(x.shape for x in jax.tree.leaves(checked.noise))
    programs = _programs(checked.method, settings, job.source.config.scheduler)
    return checked.size, checked.method, settings.num_frames, programs, job.args.decode_chunk, job.args.rate, noise


@functools.cache
def _programs(method: str, settings: Settings, scheduler: EDMConfig) -> Hashable:
    """The programs of a run's updates, with their streams: each keeps deep features."""
    run = run_of(method, settings, scheduler)
    return frozenset((kind, run.stream(number)) for number, kind in enumerate(run.kinds))


def _work(job: Job) -> dict[str, Any]:
    """The fields of `ClipWork` without the model."""
    checked = job.checked
    return {
        "size": checked.size,
        "settings": checked.settings,
        "method": checked.method,
        "decode_chunk": job.args.decode_chunk,
        "draws": checked.noise,
        "rate": job.args.rate,
    }
