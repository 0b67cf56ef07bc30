"""Batches for the training steps, read in advance: decoded from the sources, or from the latent cache."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.sources import Clip
from svdjax.data.worker_pool import Workers
from svdjax.errors import InputError, one_line
from train.batches.latent_cache import LatentCache

ClipArrays = dict[str, np.ndarray]  # one row of a batch


@dataclass(frozen=True)
class Batch:
    """The rows of one step that one process needs.

    Attributes:
        step: number of the step, from 1.
        names: name of the clip of each row.
        arrays: (rows, ...) each; see the loaders.
    """

    step: int
    names: list[str]
    arrays: dict[str, np.ndarray]


class _Pool(Protocol):
    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


class _Batches:
    """An endless iterator and context manager; leaving it stops reading immediately.

    Args:
        order: order of the clips.
        batch_size: rows per step, over all processes.
        rows: the rows that this process needs, of 0..batch_size - 1.
        first_step: the first step.
        ahead: number of batches read in advance.
        pool: runs these functions.
        read: maps a clip to the function that reads it and its arguments.
        close: stops the pool.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rows: Sequence[int],
        first_step: int,
        *,
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
        self._requested: deque[tuple[int, list[Clip], list[Future[ClipArrays]]]] = deque()

    def __enter__(self) -> Self:
        self._request(self._ahead)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The batch of the next step.

        Raises:
            InputError: a clip can't be read any more; the message names the step and the file.
        """
        self._request(self._ahead + 1)
        step, clips, futures = self._requested.popleft()
        rows = [_result(step, clip, future) for clip, future in zip(clips, futures, strict=True)]
        return Batch(step, [clip.name for clip in clips], {key: np.stack([row[key] for row in rows]) for key in rows[0]})

    def close(self) -> None:
        self._close()

    def _request(self, batches: int) -> None:
        """Start to read batches until this number of them is requested."""
        while len(self._requested) < batches:
            step = next(self._steps)
            clips = self._order.clips(step, self._batch_size, self._rows)
            self._requested.append((step, clips, [self._pool.submit(*self._read(clip)) for clip in clips]))


def _result(step: int, clip: Clip, future: Future[ClipArrays]) -> ClipArrays:
    try:
        return future.result()
    except Exception as e:  # also of a decoder: it read the whole source in the scan, so the file has changed since
        reason = e if isinstance(e, InputError | RuntimeError) else f"{type(e).__name__}: {one_line(e)}"
        raise InputError(f"step {step}, {clip.name}: {reason}") from e


class Loader(_Batches):
    """Batches of decoded clips: `arrays` is {"clips": uint8 (rows, f, H, W, 3)}, with frames in forward order.

        with Loader(order, batch_size=4, rows=[0, 1, 2, 3]) as batches:
            for batch in batches: ...

    Args:
        order: order of the clips.
        batch_size: rows per step, over all processes.
        rows: the rows that this process needs, of 0..batch_size - 1.
        first_step: the first step; no clips before it are read.
        workers: number of decoding processes; 0 decodes in this process when a batch is requested.
        ahead: number of batches read in advance, all of them held in memory.
        decode: maps a clip, (width, height) and the fit to a row; its module must not import JAX. Default: the frames only.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rows: Sequence[int],
        first_step: int = 1,
        workers: int = 2,
        ahead: int = 2,
        decode: Callable[[Clip, tuple[int, int], str], ClipArrays] | None = None,
    ):
        pool = Workers(workers)
        size, fit = order.settings.size, order.settings.fit
        super().__init__(
            order,
            batch_size,
            rows,
            first_step,
            ahead=ahead if workers else 0,
            pool=pool,
            read=lambda clip: (decode or _decode, clip, size, fit),
            close=pool.close,
        )


def _decode(clip: Clip, size: tuple[int, int], fit: str) -> ClipArrays:
    return {"clips": read_clip(clip.source, clip.start, clip.num_frames, clip.stride, size, fit)}


class CachedLoader(_Batches):
    """The same clips from a latent cache: `arrays` as `LatentCache.read` returns them, with a leading axis of rows.

    Args:
        cache: has all sources of the order.
        order, batch_size, rows, first_step: see `Loader`.
        threads: number of threads that read files.
        ahead: see `Loader`.
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
            ahead=ahead,
            pool=pool,
            read=lambda clip: (cache.read, clip),
            close=lambda: pool.shutdown(cancel_futures=True),
        )
