"""Settings of a sampler run, validated on construction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.sampling.edm import SCHEDULES
from svdjax.scalars import plain, real_number, whole_number

FUSIONS = ("average", "linear")
PREFIXES = ("mpd",)

_INTEGER_RANGES = {
    "num_frames": (2, None),
    "steps": (1, None),
    "seed": (0, 2**32 - 1),
    "fps": (1, None),
    "recurrence": (0, None),
    "prefix_repeats": (1, None),
    "deep_every": (1, None),
}
_LARGEST = {"motion_bucket_id": math.inf, "noise_aug_strength": math.inf, "recurrence_ratio": 1.0}  # the smallest is 0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run. The defaults are the paper's, without recurrence.

    Numbers may be Python's, NumPy's or JAX's; they are stored as Python's.

    Attributes:
        num_frames: frames of the clip, including both keyframes; at least 2.
        steps: Euler steps.
        seed: seed of all random draws; 0 to 2^32 - 1.
        fps: frame rate of the model's conditioning (as fps - 1), and the default rate of the video file; at least 1.
        motion_bucket_id: amount of motion that the model is conditioned on; SVD was trained with 0 to 255.
        noise_aug_strength: standard deviation of the noise added to the keyframes for the VAE.
        guidance: smallest and largest scale of classifier-free guidance. With `linear` fusion, or only one direction, the scale
            increases over time, in each direction's own time order; with `average` fusion it is the mean for all frames. If it
            is 1 for all frames, only the conditional prediction is computed, at half the cost.
        fusion: how the two directions are combined: `average`, or `linear`: from all forward at the first frame to all backward
            at the last.
        recurrence: how often each of the early steps is repeated with new noise (5 in the official script).
        recurrence_ratio: fraction of the steps, from the first, that are repeated.
        schedule: table of noise levels, a key of `edm.SCHEDULES`: `edm`; `ays`, Align Your Steps; `lcm`, for weights distilled
            as AnimateLCM's: every step leads to the denoised latents, and fresh noise brings them to the next level.
        prefix: None, or `mpd`: Motion Prior Distillation, forward updates before the method's own in the early steps.
        prefix_steps: number of early steps with the prefix; None: a fifth of the steps, rounded up.
        prefix_repeats: updates of the prefix in each of these steps.
        guidance_steps: guidance only in the steps i with A <= i < B, counted from 0; None: in all. In the other steps, only
            the conditional prediction is computed.
        deep_every: run the UNet's deep layers only in the steps 0, N, 2 N, ...; the steps between reuse their features, which
            is faster and changes the frames (DeepCache, all but the last layer of the highest resolution).

    Raises:
        InputError: a value out of its range; the message names the field.
    """

    num_frames: int = 25
    steps: int = 50
    seed: int = 0
    fps: int = 7
    motion_bucket_id: float = 127
    noise_aug_strength: float = 0.02
    guidance: tuple[float, float] = (1.0, 3.0)
    fusion: str = "average"
    recurrence: int = 0
    recurrence_ratio: float = 0.5
    schedule: str = "edm"
    prefix: str | None = None
    prefix_steps: int | None = None
    prefix_repeats: int = 3
    guidance_steps: tuple[int, int] | None = None
    deep_every: int = 1

    def __post_init__(self) -> None:
        for name, (smallest, largest) in _INTEGER_RANGES.items():
            whole = whole_number(getattr(self, name))
            if whole is None or whole < smallest or (largest is not None and whole > largest):
                expected = f"of at least {smallest}" if largest is None else f"from {smallest} to {largest}"
                raise InputError(f"{name} is {_shown(getattr(self, name))}, expected a whole number {expected}")
            object.__setattr__(self, name, whole)
        for name, largest in _LARGEST.items():
            real = real_number(getattr(self, name))
            if real is None or not 0 <= real <= largest:
                expected = "of at least 0" if largest == math.inf else f"from 0 to {largest:g}"
                raise InputError(f"{name} is {_shown(getattr(self, name))}, expected a number {expected}")
            object.__setattr__(self, name, real)
        object.__setattr__(self, "guidance", _two_scales(self.guidance))
        if self.guidance[0] > self.guidance[1]:
            raise InputError(f"guidance goes from {self.guidance[0]:g} to {self.guidance[1]:g}, expected MIN <= MAX")
        for name, known in (("fusion", FUSIONS), ("schedule", tuple(SCHEDULES)), ("prefix", (None, *PREFIXES))):
            value = getattr(self, name)
            if not isinstance(value, str | None) or value not in known:
                raise InputError(f"{name} is {_shown(value)}, expected one of {', '.join(map(str, known))}")
        most = SCHEDULES[self.schedule].most_steps
        if most is not None and self.steps > most:
            raise InputError(f"steps is {self.steps}, expected at most {most} with schedule {self.schedule}")
        if self.prefix_steps is not None:
            object.__setattr__(self, "prefix_steps", self._step("prefix_steps", self.prefix_steps, 1))
        if self.guidance_steps is not None:
            object.__setattr__(self, "guidance_steps", self._guidance_steps())

    def _step(self, name: str, value: Any, smallest: int) -> int:
        """A number of steps as a Python int."""
        whole = whole_number(value)
        if whole is None or not smallest <= whole <= self.steps:
            raise InputError(f"{name} is {_shown(value)}, expected a whole number from {smallest} to {self.steps}, the steps")
        return whole

    def _guidance_steps(self) -> tuple[int, int]:
        given = plain(self.guidance_steps)
        ends = [whole_number(end) for end in given] if isinstance(given, Iterable) else []
        first, stop = ends if len(ends) == 2 else (None, None)
        if first is None or stop is None or not 0 <= first < stop <= self.steps:
            raise InputError(
                f"guidance_steps is {_shown(self.guidance_steps)}, expected two whole numbers with 0 <= A < B <= {self.steps}"
            )
        return first, stop

    def guidance_scale(self, directions: int = 2) -> np.ndarray:
        """The guidance scale of each frame, in a direction's own time order: (f,).

        Args:
            directions: 2, or 1 for only the forward direction: it has no fusion, and the scale always increases over time.
        """
        low, high = self.guidance
        if directions == 2 and self.fusion == "average":
            return np.full(self.num_frames, (low + high) / 2)
        return np.linspace(low, high, self.num_frames)

    def forward_weight(self) -> np.ndarray:
        """The weight w of the forward direction for each frame, in forward time: (f,). The backward weight is 1 - w."""
        if self.fusion == "average":
            return np.full(self.num_frames, 0.5)
        return np.linspace(1.0, 0.0, self.num_frames)

    def as_text(self) -> dict[str, str]:
        """The fields as text, for the metadata of a file; without those that are None."""
        return {
            name: " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else str(value)
            for name, value in dataclasses.asdict(self).items()
            if value is not None
        }


def _two_scales(guidance: Any) -> tuple[float, float]:
    """The two guidance scales as Python numbers, from any iterable of two numbers of at least 0."""
    given = list(guidance) if isinstance(plain(guidance), Iterable) else []
    scales = [scale for scale in map(real_number, given) if scale is not None and scale >= 0]
    if len(given) != 2 or len(scales) != 2:
        raise InputError(f"guidance is {_shown(guidance)}, expected two numbers of at least 0")
    return scales[0], scales[1]


def _shown(value: object) -> str:
    """A value for a message; NumPy's and JAX's scalars look like Python's numbers."""
    return one_line(repr(plain(value)), 60)
