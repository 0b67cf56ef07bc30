"""Noise levels and preconditioning, in the notation of Karras et al. 2022, "Elucidating the Design Space" (EDM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import EDMConfig


def karras_sigmas(steps: int, config: EDMConfig) -> np.ndarray:
    """`steps` noise levels from sigma_max down to sigma_min (EDM equation 5) and a final 0: (steps + 1,) float64."""
    return np.append(_karras(np.linspace(0, 1, steps), config), 0.0)


def _karras(ramp: np.ndarray, config: EDMConfig) -> np.ndarray:
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    return (high + ramp * (low - high)) ** config.rho


# Noise levels for Stable Video Diffusion from "Align Your Steps" (Sabour et al. 2024): 10 steps; the last entry is used as 0.
AYS = np.array([700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002])


def ays_sigmas(steps: int, config: EDMConfig) -> np.ndarray:
    """The levels of `AYS` and a final 0: (steps + 1,) float64.

    For other counts than 10 steps, ln sigma is interpolated linearly over the table; for another range than SVD's, ln sigma is
    scaled to the range of `config`.
    """
    table = np.log(AYS)
    low, high = np.log(config.sigma_min), np.log(config.sigma_max)
    table = high + (table - table[0]) * ((low - high) / (table[-1] - table[0]))
    levels = np.exp(np.interp(np.linspace(0, len(AYS) - 1, steps + 1), np.arange(len(AYS)), table))
    return np.append(levels[:-1], 0.0)


LCM_STEPS = 40  # steps of the teacher's schedule that AnimateLCM's weights were distilled on


def lcm_sigmas(steps: int, config: EDMConfig) -> np.ndarray:
    """Every (40 // steps)-th of 40 levels of EDM equation 5 and a final 0: (steps + 1,) float64. At most 40 steps.

    Source: the scheduler of AnimateLCM-SVD.
    """
    return np.append(_karras(np.arange(steps) * (LCM_STEPS // steps) / (LCM_STEPS - 1), config), 0.0)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A table of noise levels.

    Attributes:
        sigmas: (steps, config) -> the levels, falling, and a final 0: (steps + 1,) float64.
        to_clean: whether every step leads to the denoised latents, and fresh noise brings them to the next level, instead of
            an Euler step to the next level.
        defaults: values for fields of `Settings` that are not given.
        most_steps: the largest number of steps; None without a limit.
    """

    sigmas: Callable[[int, EDMConfig], np.ndarray]
    to_clean: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    most_steps: int | None = None


SCHEDULES = {
    "edm": Levels(sigmas=karras_sigmas),
    "ays": Levels(sigmas=ays_sigmas),
    "lcm": Levels(
        sigmas=lcm_sigmas,
        to_clean=True,
        defaults={"steps": 8, "guidance": (1.0, 1.0), "recurrence": 0},
        most_steps=LCM_STEPS,
    ),
}


def c_skip(sigma: Array) -> Array:
    return 1 / (sigma**2 + 1)


def c_out(sigma: Array) -> Array:
    return -sigma / jnp.sqrt(sigma**2 + 1)


def c_in(sigma: Array) -> Array:
    return 1 / jnp.sqrt(sigma**2 + 1)


def c_noise(sigma: Array) -> Array:
    return 0.25 * jnp.log(sigma)


def denoise(latents: Array, v: Array, sigma: Array) -> Array:
    """Clean latents from a v-prediction: EDM equation 7 with the coefficients above."""
    return c_skip(sigma) * latents + c_out(sigma) * v


def euler_step(latents: Array, denoised: Array, sigma: Array, sigma_next: Array) -> Array:
    """One Euler step of EDM equation 1, dx = (x - D(x)) / sigma dsigma."""
    return latents + (latents - denoised) * ((sigma_next - sigma) / sigma)
