"""Noise levels and preconditioning, in the notation of Karras et al. 2022, "Elucidating the Design Space" (EDM)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import EDMConfig


def karras_sigmas(steps: int, config: EDMConfig) -> np.ndarray:
    """`steps` noise levels from sigma_max down to sigma_min (EDM equation 5) and a final 0: (steps + 1,) float64."""
    ramp = np.linspace(0, 1, steps)
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    return np.append((high + ramp * (low - high)) ** config.rho, 0.0)


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


@dataclass(frozen=True)
class Schedule:
    """The n UNet evaluations of a run in order, repeated steps included.

    Attributes:
        sigma: noise level of each evaluation, (n,) float64.
        sigma_next: noise level after its Euler step, (n,).
        renoise: standard deviation of the noise added before the evaluation, (n,): sqrt(sigma^2 - sigma_next^2) if it repeats
            a step, otherwise 0.
    """

    sigma: np.ndarray
    sigma_next: np.ndarray
    renoise: np.ndarray

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def recurrences(self) -> int:
        """Number of evaluations that repeat a step, each with its own noise."""
        return int(np.count_nonzero(self.renoise))


def schedule(steps: int, config: EDMConfig, recurrence: int = 0, recurrence_ratio: float = 0.5) -> Schedule:
    """The evaluations of a run: each of the first int(steps * recurrence_ratio) steps is repeated `recurrence` times."""
    sigmas = karras_sigmas(steps, config)
    repeats = np.ones(steps, int)
    repeats[: int(steps * recurrence_ratio)] += recurrence
    step = np.repeat(np.arange(steps), repeats)
    repeated = np.append(False, step[1:] == step[:-1])
    sigma, sigma_next = sigmas[step], sigmas[step + 1]
    return Schedule(sigma, sigma_next, np.where(repeated, np.sqrt(sigma**2 - sigma_next**2), 0.0))
