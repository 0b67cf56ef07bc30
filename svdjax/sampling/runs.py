"""A run of the sampler: its updates in order, with their noise levels, and the programs that compute them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import Step, Update, euler


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the updates of one compiled program have in common.

    Attributes:
        step: see `Update.step`.
        single: whether it predicts one direction, selected by the number `direction`, instead of all.
        unconditional: whether there are predictions without conditioning.
        guided: whether the guidance scale is applied.
        renoises: whether noise may be added before the prediction.
        deep: whether the UNet's deep features are computed (`run`), computed and kept (`store`), or reused (`reuse`).
    """

    step: Step
    single: bool
    unconditional: bool
    guided: bool
    renoises: bool
    deep: str = "run"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The n updates of a run in order.

    Attributes:
        updates: see `Update`.
        sigmas: table of noise levels, falling to 0.
        kinds: the program of each update.
        directions: 2, or 1 for the forward direction only.
    """

    updates: tuple[Update, ...]
    sigmas: np.ndarray
    kinds: tuple[Kind, ...]
    directions: int

    def __len__(self) -> int:
        return len(self.updates)

    @functools.cached_property
    def sigma(self) -> np.ndarray:
        """Noise level of each prediction, (n,) float64."""
        return self.sigmas[[update.start for update in self.updates]]

    @functools.cached_property
    def sigma_next(self) -> np.ndarray:
        """Noise level after each update, (n,) float64."""
        return self.sigmas[[update.stop for update in self.updates]]

    @functools.cached_property
    def renoise(self) -> np.ndarray:
        """Standard deviation of the noise added before each prediction, (n,) float64.

        It brings the latents from the level of the update before to the level of this one; 0 if they are there already.
        """
        return renoise(self.sigma, self.sigma_next)

    @property
    def recurrences(self) -> int:
        """Number of updates with added noise: the draws in `Draws.recurrence`, in the order of the updates."""
        return int(np.count_nonzero(self.renoise))

    def clips(self, number: int) -> int:
        """Clips that the UNet predicts in an update: its directions, with and without conditioning."""
        kind = self.kinds[number]
        return (1 if kind.single else self.directions) * (2 if kind.unconditional else 1)

    @functools.cached_property
    def done(self) -> tuple[Fraction, ...]:
        """UNet evaluations after each update.

        An evaluation is a prediction of all clips of the run: both directions, with and without conditioning unless no update
        needs the latter. An update that predicts half of them counts as half.
        """
        whole = self.directions * (2 if any(kind.unconditional for kind in self.kinds) else 1)
        return tuple(itertools.accumulate(Fraction(self.clips(k), whole) for k in range(len(self))))

    @property
    def evaluations(self) -> int:
        """UNet evaluations of the run, rounded up; see `done`."""
        return math.ceil(self.done[-1])

    @property
    def passes(self) -> int:
        """Clips that the UNet predicts in the run: two per pair of classifier-free guidance and direction."""
        return sum(map(self.clips, range(len(self))))

    @property
    def reused(self) -> int:
        """Number of updates that reuse deep features."""
        return sum(kind.deep == "reuse" for kind in self.kinds)

    def rows(self, start: int, stop: int, dtype: DTypeLike) -> dict[str, Array]:
        """The numbers of some updates of one kind, (stop - start,) each."""
        part = slice(start, stop)
        found = {
            "sigma": jnp.asarray(self.sigma[part], dtype),
            "sigma_next": jnp.asarray(self.sigma_next[part], dtype),
            "renoise": jnp.asarray(self.renoise[part], dtype),
            "noise": jnp.asarray((np.cumsum(self.renoise > 0) - 1)[part], jnp.int32),
        }
        if self.kinds[start].single:
            found["direction"] = jnp.asarray([update.direction for update in self.updates[part]], jnp.int32)
        for name in self.updates[start].numbers:
            found[name] = jnp.asarray([update.numbers[name] for update in self.updates[part]], dtype)
        return found

    def stream(self, number: int) -> tuple[int | None, bool]:
        """The updates whose deep features an update may reuse: those of the same clips."""
        return self.updates[number].direction, self.kinds[number].unconditional

    def calls(self, segments: int) -> list[tuple[int, int]]:
        """The programs' calls as ranges of updates.

        Consecutive updates of one kind are a group. The calls of a kind have the same length, so that each kind is compiled
        once: a divisor of the lengths of its groups, the smallest that gives about `segments` calls in all.
        """
        keys = [(kind, self.stream(k) if kind.deep != "run" else None) for k, kind in enumerate(self.kinds)]
        groups = [(kind, len(list(of_kind))) for (kind, _), of_kind in itertools.groupby(keys)]
        common = {kind: math.gcd(*(length for its, length in groups if its == kind)) for kind, _ in groups}
        found, start = [], 0
        for kind, group in groups:
            length = segment_length(common[kind], len(self), segments)
            found += [(at, at + length) for at in range(start, start + group, length)]
            start += group
        return found


def segment_length(common: int, total: int, segments: int) -> int:
    """Updates of one call: the smallest divisor of `common` of at least total / segments, or `common`."""
    return next((n for n in range(1, common) if common % n == 0 and n * segments >= total), common)


def renoise(sigma: np.ndarray, sigma_next: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise that brings latents from the level after each update to that of the next one, (n,)."""
    before = np.append(sigma[:1], sigma_next[:-1])
    return np.sqrt(np.where(before < sigma, sigma**2 - before**2, 0.0))


def make_run(updates: Sequence[Update], sigmas: np.ndarray, settings: Settings, directions: int) -> Run:
    """The run of some updates.

    Args:
        updates: in order.
        sigmas: noise levels that the updates refer to, falling to 0.
        settings: guidance, and reuse of deep features.
        directions: 2, or 1 for the forward direction only.
    """
    scaled = bool((settings.guidance_scale(fused_directions(updates, directions)) != 1).any())
    first, stop = settings.guidance_steps or (0, settings.steps)
    start, after = (sigmas[[getattr(update, name) for update in updates]] for name in ("start", "stop"))
    noised = {(u.step, u.direction is None) for u, added in zip(updates, renoise(start, after), strict=True) if added > 0}
    kinds: list[Kind] = []
    kept: dict[tuple[int | None, bool], int] = {}  # the step of the latest deep features of each stream
    for update in updates:
        guided = scaled and first <= update.start < stop
        unconditional = update.unconditional or guided
        deep = "run"
        if settings.deep_every > 1:
            due = update.start - update.start % settings.deep_every
            stream = update.direction, unconditional
            deep = "reuse" if update.start > due and due <= kept.get(stream, -1) <= update.start else "store"
            kept |= {stream: update.start} if deep == "store" else {}
        kinds.append(
            Kind(
                step=update.step,
                single=update.direction is not None,
                unconditional=unconditional,
                guided=guided,
                renoises=(update.step, update.direction is None) in noised,  # any update of the program adds noise
                deep=deep,
            )
        )
    return Run(updates=tuple(updates), sigmas=sigmas, kinds=tuple(kinds), directions=directions)


def fused_directions(updates: Sequence[Update], directions: int) -> int:
    """Directions for `Settings.guidance_scale`: 1 if no update fuses two."""
    return directions if any(update.direction is None for update in updates) else 1


def window_length(num_frames: int, rate: int) -> int:
    """Frames of a window at a raised frame rate: the most, up to a clip's, with original frames at both ends."""
    return (num_frames - 1) // rate * rate + 1


def window_passes(run: Run, passes: str) -> str:
    """The UNet calls for windows at a raised frame rate, in a run with `passes`, a key of `passes.PASSES`."""
    return "clips" if all(kind.single for kind in run.kinds) else passes  # `passes` are for one direction at a time


def window_program(run: Run, settings: Settings, rate: int, dtype: DTypeLike) -> tuple[Kind, dict[str, Array]]:
    """The program that predicts windows at a raised frame rate: an Euler step of all directions.

    If windows are as long as the clip, it is a program of the run itself if it has such a step, so that it is compiled once.

    Args:
        run: of the clip.
        settings: of the clip.
        rate: 2 or 4.
        dtype: of the numbers.

    Returns:
        Its kind, and the numbers of a call that adds no noise, (1,) each; the caller sets `sigma` and `sigma_next`.
    """
    length = window_length(settings.num_frames, rate)
    guided = bool((settings.guidance_scale(run.directions) != 1).any())
    for k, kind in enumerate(run.kinds if length == settings.num_frames else ()):
        fused = kind.step is euler and not kind.single and kind.deep != "reuse"
        if fused and kind.guided is guided and kind.unconditional is guided:
            return kind, run.rows(k, k + 1, dtype) | {"renoise": jnp.zeros(1, dtype)}
    own = Kind(step=euler, single=False, unconditional=guided, guided=guided, renoises=False)
    return own, {name: jnp.zeros(1, dtype) for name in ("sigma", "sigma_next")}
