"""Updates of the latents: a prediction at a noise level, and the new latents that a pure function makes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
from jax import Array

from svdjax.errors import InputError
from svdjax.sampling import edm
from svdjax.sampling.prediction import Guide, fuse
from svdjax.sampling.settings import Settings

FORWARD, BACKWARD = 0, 1  # directions, as indices of `Conditioning`


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The prediction of one update, from which its step makes new latents.

    For an update of one direction, all clips and the keyframes are in that direction's own time.

    Attributes:
        latents: noisy latents that the prediction is for, (b, f, h, w, c).
        v: predictions of all clips, (d, g, b, f, h, w, c): d directions, g (unconditional, conditional) or only conditional.
        numbers: `sigma` and `sigma_next`, the noise levels before and after the step, and those of `Update.numbers`; scalars.
        guide: guidance scales and fusion weights.
        keyframes: clean latents of the first and the last keyframe, scaled as `latents`, (2, b, h, w, c), for methods with
            `keyframe_latents`; otherwise None.
    """

    latents: Array
    v: Array
    numbers: Mapping[str, Array]
    guide: Guide
    keyframes: Array | None

    @property
    def sigma(self) -> Array:
        """Noise level of the latents."""
        return self.numbers["sigma"]

    @property
    def sigma_next(self) -> Array:
        """Noise level of the new latents."""
        return self.numbers["sigma_next"]

    def denoised(self) -> Array:
        """Clean latents, after guidance and fusion of the directions, (b, f, h, w, c)."""
        return edm.denoise(self.latents, fuse(self.v, self.guide), self.sigma)

    def unconditional(self) -> Array:
        """Clean latents without conditioning, (b, f, h, w, c), for an update of one direction."""
        return edm.denoise(self.latents, self.v[0, 0], self.sigma)


Step = Callable[[Predicted], Array]  # -> the new latents, (b, f, h, w, c)


def euler(predicted: Predicted) -> Array:
    """An Euler step towards the denoised latents, guided and fused (EDM equation 1)."""
    return edm.euler_step(predicted.latents, predicted.denoised(), predicted.sigma, predicted.sigma_next)


def bridge(predicted: Predicted) -> Array:
    """A step of one direction that leads to the other keyframe; its noise comes from the unconditional prediction (CFG++).

    With the number `shift` 0 it is ViBiDSampler's: the last frame of the denoised latents is replaced by the last keyframe's.
    With 1 it is that of Motion Prior Distillation: one image is added to all frames, such that the last is the last keyframe's,
    and the first frame is replaced.
    """
    if predicted.keyframes is None:
        raise InputError("step bridge needs the keyframes' latents: declare the Method with keyframe_latents=True")
    first, last = predicted.keyframes
    clean = predicted.denoised()
    shifted = (clean + (last - clean[:, -1])[:, None]).at[:, 0].set(first)
    clean = jnp.where(predicted.numbers["shift"] > 0, shifted, clean.at[:, -1].set(last))
    noise = (predicted.latents - predicted.unconditional()) / predicted.sigma
    return clean + predicted.sigma_next * noise


@dataclass(frozen=True, kw_only=True)
class Update:
    """A prediction and a step. If the latents are at a lower level than `start`, fresh noise is added first.

    Attributes:
        start: index of the prediction's noise level: the number of the step, from 0.
        stop: index of the level that the step leads to. The last level, after all steps, is 0.
        step: makes the new latents. It must be a function of a module, because programs are compiled once for each function.
        direction: None predicts all directions, in one UNet call and fused by `Predicted.denoised`; `FORWARD` or `BACKWARD`
            only this one, with the forward weights, at half the cost.
        unconditional: whether the step needs the prediction without conditioning, also where there is no guidance.
        numbers: further numbers for the step; the names must be the same in all updates of a step.
    """

    start: int
    stop: int
    step: Step = euler
    direction: int | None = None
    unconditional: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)


def repeated(steps: Iterable[int], settings: Settings) -> list[int]:
    """The numbers of some steps, the early ones repeated as `Settings.recurrence` says."""
    early = int(settings.steps * settings.recurrence_ratio)
    return [i for i in steps for _ in range(1 + settings.recurrence * (i < early))]


def euler_updates(settings: Settings) -> list[Update]:
    """Euler steps of all directions at once, the early ones repeated."""
    return [Update(start=i, stop=i + 1) for i in repeated(range(settings.steps), settings)]


JUMP_FROM, JUMP_TO = 9, 5


def jump_updates(settings: Settings) -> list[Update]:
    """Euler steps; after step 9, noise brings the latents back to step 5, once."""
    if settings.steps <= JUMP_FROM:
        raise InputError(f"steps is {settings.steps}, expected at least {JUMP_FROM + 1}: the method returns after that step")
    order = [*range(JUMP_FROM + 1), *range(JUMP_TO, settings.steps)]
    return [Update(start=i, stop=i + 1) for i in repeated(order, settings)]


def bridge_update(step: int, direction: int, *, shift: bool = False) -> Update:
    """A step of one direction towards the other keyframe, see `updates.bridge`."""
    numbers = {"shift": float(shift)}
    return Update(start=step, stop=step + 1, step=bridge, direction=direction, unconditional=True, numbers=numbers)


def vibid_updates(settings: Settings) -> list[Update]:
    """In each step, half a step forward, then half a step backward."""
    steps = repeated(range(settings.steps), settings)
    return [bridge_update(i, direction) for i in steps for direction in (FORWARD, BACKWARD)]


def mpd_prefix(updates: Sequence[Update], settings: Settings) -> list[Update]:
    """Motion Prior Distillation: before a method's own updates of the early steps, forward updates at the same level."""
    count = -(-settings.steps // 5) if settings.prefix_steps is None else settings.prefix_steps
    found: list[Update] = []
    for update in updates:
        if update.start < count and all(update.start != before.start for before in found):
            found += [bridge_update(update.start, FORWARD, shift=True)] * settings.prefix_repeats
        found.append(update)
    return found
