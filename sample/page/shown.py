"""The preview that a running job shows: of the sampler's latest estimates, made at most once per second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jax
import numpy as np

SECONDS = 1.0  # between two previews: the sampler waits while one is made


class Shown:
    """The frames of a job's clips so far.

    Args:
        frames_of: small frames of latents: (f, h, w, c) -> uint8 (f, h, w, 3).
        clips: number of clips of the job.
        clock: gives the time in seconds.

    Attributes:
        frames: uint8 (f, h, w, 3); neighbouring clips share a frame. None before the first.
    """

    def __init__(
        self, frames_of: Callable[[np.ndarray], np.ndarray], clips: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.frames: np.ndarray | None = None
        self._frames_of, self._total, self._clock = frames_of, clips, clock
        self._clips: list[np.ndarray] = []  # the last preview of each
        self._latest: tuple[int, jax.Array] | None = None  # an estimate that isn't shown yet
        self._made = -math.inf

    def estimate(self, number: int, latents: jax.Array) -> None:
        """Take an estimate of the clips from `number` on, counted from 0, (b, f, h, w, c); surplus ones are ignored."""
        if self._latest is not None and self._latest[0] != number:
            self.update(at_once=True)  # the last of clips that are sampled
        self._latest = number, latents

    def update(self, *, at_once: bool = False) -> None:
        """Make the frames of the latest estimate, if there is a new one; not so soon after others unless `at_once`."""
        if self._latest is None or not (at_once or self._clock() - self._made >= SECONDS):
            return
        (number, latents), self._latest = self._latest, None
        self._clips[number:] = [self._frames_of(x) for x in np.asarray(latents)[: self._total - number]]
        self.frames = np.concatenate([self._clips[0], *(frames[1:] for frames in self._clips[1:])])
        self._made = self._clock()
