"""Noise levels and preconditioning in the notation of Karras et al. 2022, "Elucidating the Design Space" (EDM)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import EDMConfig


def karras_sigmas(steps: int, config: EDMConfig) -> np.ndarray:
    """EDM equation 5: `steps` noise levels from sigma_max down to sigma_min, and a final 0. (steps + 1,) float64."""
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
    """The clean latents that a v-prediction means: EDM equation 7 with the coefficients above."""
    return c_skip(sigma) * latents + c_out(sigma) * v


def euler_step(latents: Array, denoised: Array, sigma: Array, sigma_next: Array) -> Array:
    """One step of EDM's equation 1, dx = (x - D(x)) / sigma dsigma, by Euler's rule."""
    return latents + (latents - denoised) * ((sigma_next - sigma) / sigma)


@dataclass(frozen=True)
class Schedule:
    """One entry for each evaluation of the UNet, recurrences included, in the order they run.

    Attributes:
        sigma: noise level of the evaluation, (n,) float64.
        sigma_next: level that its Euler step goes to, (n,).
        renoise: standard deviation of the noise added before it, (n,): sqrt(sigma^2 - sigma_next^2) where the evaluation
            redoes a step, 0 elsewhere.
    """

    sigma: np.ndarray
    sigma_next: np.ndarray
    renoise: np.ndarray

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def recurrences(self) -> int:
        """How many evaluations redo a step: the number of recurrence noises drawn."""
        return int(np.count_nonzero(self.renoise))


def schedule(steps: int, config: EDMConfig, recurrence: int = 0, recurrence_ratio: float = 0.5) -> Schedule:
    """The evaluations of a run: in the first int(steps * recurrence_ratio) steps each is redone `recurrence` times."""
    sigmas = karras_sigmas(steps, config)
    repeats = np.ones(steps, int)
    repeats[: int(steps * recurrence_ratio)] += recurrence
    step = np.repeat(np.arange(steps), repeats)
    redone = np.append(False, step[1:] == step[:-1])
    sigma, sigma_next = sigmas[step], sigmas[step + 1]
    return Schedule(sigma, sigma_next, np.where(redone, np.sqrt(sigma**2 - sigma_next**2), 0.0))
