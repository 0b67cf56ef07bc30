"""Batches for the training steps, read ahead of them: decoded from the sources, or taken from the latent cache."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.sources import Clip
from svdjax.data.worker_pool import WorkerDied, Workers
from svdjax.errors import InputError
from train.batches.latent_cache import LatentCache

Row = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step.

    Attributes:
        step: from 1.
        names: of the clips, one a row.
        arrays: (rows, ...) each; see the loaders.
    """

    step: int
    names: list[str]
    arrays: dict[str, np.ndarray]


class _Pool(Protocol):
    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]: ...


class _Batches:
    """An endless iterator and context manager; leaving it ends the reading at once."""

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rows: Sequence[int],
        first_step: int,
        ahead: int,
        pool: _Pool,
        read: Callable[[Clip], tuple[Any, ...]],
        close: Callable[[], None],
    ):
        if not rows or not all(0 <= row < batch_size for row in rows):
            raise ValueError(f"rows {list(rows)}, expected some of 0..{batch_size - 1}")
        self._order, self._batch_size, self._rows = order, batch_size, list(rows)
        self._steps = itertools.count(first_step)
        self._ahead, self._pool, self._read, self._close = ahead, pool, read, close
        self._asked: deque[tuple[int, list[Clip], list[Future[Row]]]] = deque()

    def __enter__(self) -> _Batches:
        self._ask(self._ahead)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch:
        """The batch of the next step.

        Raises:
            InputError: a clip can't be read any more; the message names step and file.
        """
        self._ask(self._ahead + 1)
        step, clips, futures = self._asked.popleft()
        rows = [_result(step, clip, future) for clip, future in zip(clips, futures, strict=True)]
        return Batch(step, [clip.name for clip in clips], {key: np.stack([row[key] for row in rows]) for key in rows[0]})

    def close(self) -> None:
        self._close()

    def _ask(self, batches: int) -> None:
        while len(self._asked) < batches:
            step = next(self._steps)
            clips = self._order.clips(step, self._batch_size, self._rows)
            self._asked.append((step, clips, [self._pool.submit(*self._read(clip)) for clip in clips]))


def _result(step: int, clip: Clip, future: Future[Row]) -> Row:
    try:
        return future.result()
    except (InputError, WorkerDied) as e:
        raise InputError(f"step {step}, {clip.name}: {e}") from None


class Loader(_Batches):
    """Batches of decoded clips: `arrays` is {"clips": uint8 (rows, f, H, W, 3)}, forward in time.

        with Loader(order, batch_size=4, rows=[0, 1, 2, 3]) as batches:
            for batch in batches: ...

    Args:
        order: which clips.
        batch_size: rows of a step over all processes.
        rows: those that this process needs, of 0..batch_size - 1.
        first_step: where to begin; nothing before it is read.
        workers: processes that decode; 0 decodes in this one when a batch is asked for.
        ahead: batches read before they are asked for; each is held in memory.
        decode: makes a row of a clip, (width, height) and the fit; a function of a module that is importable without JAX.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rows: Sequence[int],
        first_step: int = 1,
        workers: int = 2,
        ahead: int = 2,
        decode: Callable[[Clip, tuple[int, int], str], Row] | None = None,
    ):
        pool = Workers(workers)
        size, fit = order.settings.size, order.settings.fit
        super().__init__(
            order,
            batch_size,
            rows,
            first_step,
            ahead if workers else 0,
            pool,
            lambda clip: (decode or _decode, clip, size, fit),
            pool.close,
        )


def _decode(clip: Clip, size: tuple[int, int], fit: str) -> Row:
    return {"clips": read_clip(clip.source, clip.start, clip.num_frames, clip.stride, size, fit)}


class CachedLoader(_Batches):
    """The same clips from a latent cache: `arrays` as `LatentCache.read` gives them, with rows in front.

    Args:
        cache: with all of the order's sources in it.
        order, batch_size, rows, first_step: as of `Loader`.
        threads: that read files.
        ahead: as of `Loader`.
    """

    def __init__(
        self,
        cache: LatentCache,
        order: Order,
        batch_size: int,
        rows: Sequence[int],
        first_step: int = 1,
        threads: int = 2,
        ahead: int = 2,
    ):
        pool = ThreadPoolExecutor(threads, "cache")
        super().__init__(
            order,
            batch_size,
            rows,
            first_step,
            ahead,
            pool,
            lambda clip: (cache.read, clip),
            lambda: pool.shutdown(cancel_futures=True),
        )
