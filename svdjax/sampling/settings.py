"""What one run of the sampler is asked to do; every value is checked when the settings are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.sampling.edm import Schedule, schedule

FUSIONS = ("average", "linear")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Settings:
    """Settings of a run; defaults are the paper's, with no recurrence.

    Attributes:
        num_frames: frames of the clip, both keyframes included; at least 2.
        steps: Euler steps.
        seed: where every random draw comes from; 0 to 2^32 - 1.
        fps: frame rate that the model is told (as fps - 1) and the video is written with; at least 1.
        motion_bucket_id: how much motion the model is told to make; SVD was trained on 0 to 255.
        noise_aug_strength: standard deviation of the noise added to the keyframes for the VAE.
        guidance: smallest and largest scale of classifier-free guidance. `linear` fusion ramps from the first to the
            second along each direction's own time; `average` uses their mean everywhere. Scale 1 everywhere is the
            conditional prediction alone, at half the cost.
        fusion: how the directions are fused: `average`, or `linear` from the forward (first frame) to the backward (last).
        recurrence: how often each of the early steps is redone from fresh noise (the official script: 5).
        recurrence_ratio: the share of the steps that are redone.

    Raises:
        InputError: a value out of its range; the message names it.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", tuple(self.guidance))
        for name, least, most in (
            ("num_frames", 2, None),
            ("steps", 1, None),
            ("seed", 0, 2**32 - 1),
            ("fps", 1, None),
            ("recurrence", 0, None),
        ):
            value = getattr(self, name)
            if not _is_int(value) or value < least or (most is not None and value > most):
                wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
                raise InputError(f"{name} is {value!r}, expected a whole number {wanted}")
        for name, most in (("motion_bucket_id", math.inf), ("noise_aug_strength", math.inf), ("recurrence_ratio", 1.0)):
            value = getattr(self, name)
            if not (0 <= value <= most and math.isfinite(value)):
                wanted = "of at least 0" if most == math.inf else f"from 0 to {most:g}"
                raise InputError(f"{name} is {value!r}, expected a number {wanted}")
        if len(self.guidance) != 2 or not all(math.isfinite(g) and g >= 0 for g in self.guidance):
            raise InputError(f"guidance is {self.guidance}, expected two numbers of at least 0")
        if self.guidance[0] > self.guidance[1]:
            raise InputError(f"guidance goes from {self.guidance[0]:g} to {self.guidance[1]:g}, expected MIN <= MAX")
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion is {self.fusion!r}, expected one of {', '.join(FUSIONS)}")

    def schedule(self, config: EDMConfig) -> Schedule:
        """The UNet evaluations of the run."""
        return schedule(self.steps, config, self.recurrence, self.recurrence_ratio)

    def guidance_scale(self) -> np.ndarray:
        """The scale for each frame, in a direction's own time order; the same for both directions. (f,)"""
        low, high = self.guidance
        if self.fusion == "average":
            return np.full(self.num_frames, (low + high) / 2)
        return np.linspace(low, high, self.num_frames)

    def forward_weight(self) -> np.ndarray:
        """The weight w of the forward direction for each frame, in forward time; the backward one has 1 - w. (f,)"""
        if self.fusion == "average":
            return np.full(self.num_frames, 0.5)
        return np.linspace(1.0, 0.0, self.num_frames)

    def as_text(self) -> dict[str, str]:
        """The settings as text, for a file's metadata."""
        return {
            k: " ".join(f"{x:g}" for x in v) if isinstance(v, tuple) else str(v) for k, v in dataclasses.asdict(self).items()
        }
