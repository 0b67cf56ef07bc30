"""Measure the clips of an evaluation, and keep the values beside the frames so that a later run reuses them.

`OUT/METHOD/PAIR/measured.npz` holds the values of one clip. Their names contain a hash of the figure's definition and weights,
and a stamp of the frames' files: a changed figure or frame is measured again, and a new figure or method costs only itself.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sample.evaluation import clip_folders, frechet, metrics, run_folder
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.figure_options import FLICKER, FLOW, FRECHET
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.options import EvaluationRequest
from sample.quality import catalog, motion, networks
from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file
from svdjax.world.scene import Scene

FILE = "measured.npz"
BASIC = "basic"  # the values of `metrics.clip_metrics`, measured together
_BASIC_VERSION = 1  # count up when their definitions change
_STAMP = "stamp"

Values = dict[str, np.ndarray]


class Measured:
    """Values of an evaluation's clips, read from their files.

    Attributes:
        names: the figures of `catalog.FIGURES` that were measured, in their order.
    """

    def __init__(self, request: EvaluationRequest, pairs: Sequence[Pair]):
        self._request = request
        self._keys = {name: catalog.key(name, request.figures) for name in request.figures.names}
        self._keys |= {name: f"{_basic_key(request)}/{name}" for name in metrics.METRICS}
        scene = pairs[0].scene is not None
        track = catalog.names_in(catalog.TRACK, tuple(catalog.FIGURES))
        self.names = [name for name in catalog.FIGURES if name in self._keys and (scene or name not in track)]

    def value(self, method: str, pair: Pair, name: str) -> np.ndarray | None:
        """A figure of a clip, (), or features of its frames, (m, c); None if the method lacks the clip."""
        if not self.has(method, pair):
            return None
        with np.load(self._file(method, pair)) as values:
            return values[self._keys[name]]

    def has(self, method: str, pair: Pair) -> bool:
        """Whether the method has the clip."""
        return self._file(method, pair).exists()

    def _file(self, method: str, pair: Pair) -> Path:
        return self._request.out / method / pair.name / FILE


def measure(request: EvaluationRequest, pairs: Sequence[Pair]) -> Measured:
    """Measure what no earlier run has measured: simple figures in worker processes, then one clip at a time with networks."""
    jobs = list(_jobs(request, pairs))
    simple = [job.of(SIMPLE) for job in jobs if job.of(SIMPLE).names]
    if simple:
        context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads can hang
        try:
            with ProcessPoolExecutor(request.workers, context, end_with_parent) as pool:
                done = pool.map(_measure_simple, simple, chunksize=4)
                for job, values in zip(simple, _progress(done, len(simple), "measuring"), strict=True):
                    job.save(values)
        except BrokenProcessPool:
            raise InputError(
                f"--workers {request.workers}: a process that measures was killed (out of memory?); give fewer and run again"
            ) from None
    deep = [job.of(networks.NAMES) for job in jobs if job.of(networks.NAMES).names]
    loaded = networks.Networks(request.figures)
    for job in _progress(deep, len(deep), "measuring with networks"):
        truth, frames = job.clips()
        job.save({job.keys[name]: loaded(name, truth, frames) for name in job.names})
    return Measured(request, pairs)


def end_with_parent() -> None:
    """In a worker process: end when the process that started it does, however that ended.

    A worker waits for its next task at a pipe that it holds open itself, so after a killed command it would wait forever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _basic_key(request: EvaluationRequest) -> str:
    """The name of the saved values of `BASIC`; it depends on the package that computes SSIM."""
    return f"{BASIC}-{_BASIC_VERSION}-{catalog.key('ssim', request.figures)}"


def _progress(values: Iterable, total: int, title: str) -> Iterable:
    return tqdm(values, desc=title, total=total, unit="clip", file=sys.stderr, disable=not total)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be measured of one clip.

    Attributes:
        truth, folder: folders of the true and the generated clip; the same for the truth itself.
        shape: of both clips.
        scene: see `Pair`.
        names: figures, or `BASIC`.
        keys: the names of their values in the file.
    """

    truth: Path
    folder: Path
    shape: clip_folders.Shape
    scene: Scene | None
    names: Sequence[str]
    keys: Mapping[str, str]

    def of(self, among: Sequence[str]) -> Job:
        """The part of the job with some figures."""
        return dataclasses.replace(self, names=[name for name in self.names if name in among])

    def clips(self) -> tuple[np.ndarray, np.ndarray]:
        """The true and the generated clip, uint8 (f, H, W, 3)."""
        frames = clip_folders.read(self.folder, self.shape)
        return (frames if self.truth == self.folder else clip_folders.read(self.truth, self.shape)), frames

    def stamp(self) -> np.ndarray:
        return np.array(_stamp(self.folder) + _stamp(self.truth))

    def saved(self) -> Values:
        """The values of an earlier run; none if the frames have changed since, or the file is damaged."""
        try:
            with (self.folder / FILE).open("rb") as file, np.load(file) as values:
                return dict(values) if values[_STAMP] == self.stamp() else {}
        except Exception:  # missing, or damaged: the readers of npz files raise nearly any kind of exception
            return {}

    def save(self, values: Values) -> None:
        """Add values to the file."""
        with new_file(self.folder / FILE) as temporary, temporary.open("wb") as file:
            # without allow_pickle: before NumPy 2.2 it would be the name of an array
            np.savez(file, **(self.saved() | values | {_STAMP: self.stamp()}))  # pyright: ignore[reportArgumentType]


@functools.lru_cache(maxsize=100_000)
def _stamp(folder: Path) -> str:
    """A hash of the names, sizes and times of a clip's frames. Their content is not read: it may be gigabytes."""
    files = [(path.name, path.stat()) for path in sorted(folder.glob("*.png"))]
    return hashlib.sha256(repr([(name, s.st_size, s.st_mtime_ns) for name, s in files]).encode()).hexdigest()[:16]


def _jobs(request: EvaluationRequest, pairs: Sequence[Pair]) -> Iterator[Job]:
    """A job for each clip that lacks values, the true ones first."""
    keys = {name: catalog.key(name, request.figures) for name in request.figures.names} | {BASIC: _basic_key(request)}
    sets = catalog.names_in(catalog.SETS, request.figures.names)
    _stamp.cache_clear()
    for method in (TRUTH, *request.methods):
        names = sets if method == TRUTH else [BASIC, *request.figures.names]
        for pair in run_folder.available(request, method, pairs):
            job = Job(
                truth=request.out / TRUTH / pair.name,
                folder=request.out / method / pair.name,
                shape=request.shape,
                scene=pair.scene,
                names=names,
                keys=keys,
            )
            saved = {key.partition("/")[0] for key in job.saved()}
            missing = [name for name in names if keys[name] not in saved]
            if missing:
                yield job.of(missing)


def _measure_simple(job: Job) -> Values:
    truth, frames = job.clips()
    found: Values = {}
    for name in job.names:
        if name == BASIC:
            values = metrics.clip_metrics(truth, frames, job.scene)
            found |= {f"{job.keys[BASIC]}/{metric}": np.array(value) for metric, value in values.items()}
        else:
            found[job.keys[name]] = np.array(_SIMPLE[name](truth, frames))
    return found


_SIMPLE = {
    FLOW: motion.flow_agreement,
    FLICKER: motion.flicker,
    FRECHET: lambda truth, frames: frechet.features(frames[1:-1]),
}
SIMPLE = (BASIC, *_SIMPLE)  # what needs no network
