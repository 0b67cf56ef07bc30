"""The samplers in their plainest form: loops over single steps of one clip, in PyTorch.

Noisy latents x are (f, c, h, w) in forward time. `draws` yields unit-variance noise (f, c, h, w) in the order of use.
Sources: Generative Inbetweening (Wang et al. 2024, algorithm 2); the published code of ViBiDSampler, Motion Prior Distillation
(MPD), Time Reversal Fusion (TRF) and AnimateLCM; the levels of Align Your Steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from plain_network import BACKWARD, FORWARD, Network
from torch import Tensor

Draws = Iterator[Tensor]
Step = Callable[[Tensor, int], Tensor]  # noisy latents at level i -> at level i + 1

ALIGN_YOUR_STEPS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def karras_levels(steps: int, largest: float = 700.0, smallest: float = 0.002) -> list[float]:
    start, end = largest ** (1 / 7), smallest ** (1 / 7)
    return [(start + i / max(steps - 1, 1) * (end - start)) ** 7 for i in range(steps)] + [0.0]


def ays_levels(steps: int, largest: float = 700.0, smallest: float = 0.002) -> list[float]:
    """Log-linear interpolation of the published table; for another range the table is stretched in ln sigma."""
    table = np.log(ALIGN_YOUR_STEPS)
    logs = np.interp(np.linspace(0, 10, steps + 1), range(11), table)
    stretch = math.log(largest / smallest) / (table[0] - table[-1])
    levels = [math.exp(math.log(largest) - stretch * (table[0] - x)) for x in logs]
    return [*levels[:-1], 0.0]


def lcm_levels(steps: int, largest: float = 700.0, smallest: float = 0.002) -> list[float]:
    """Every (40 // steps)-th of the 40 Karras levels that the model was distilled on."""
    all_levels = karras_levels(40, largest, smallest)
    return [all_levels[k * (40 // steps)] for k in range(steps)] + [0.0]


def run(step: Step, levels: Sequence[float], initial: Tensor) -> Tensor:
    x = initial * math.sqrt(levels[0] ** 2 + 1)
    for i in range(len(levels) - 1):
        x = step(x, i)
    return x


def fused(
    network: Network,
    x: Tensor,
    sigma: float,
    *,
    directions: str,
    guidance: tuple[float, float] = (1.0, 1.0),
    linear: bool = False,
) -> Tensor:
    """Clean latents of Generative Inbetweening and of what it compares itself with.

    Args:
        directions: `rotated`: the backward direction uses rotated forward maps; `own`: its own maps; `forward`: there is none.
        guidance: scale at the first and the last frame of a direction's own time; their mean everywhere for average fusion.
        linear: fuse from all forward at the first frame to all backward at the last; otherwise average.
    """
    frames = len(x)
    estimates = []
    for conditional in (False, True):
        if directions == "rotated":
            forward, backward = network.denoise_rotated(x, sigma, conditional)
        else:
            forward = network.denoise(x, sigma, FORWARD, conditional)
            backward = None if directions == "forward" else network.denoise(x.flip(0), sigma, BACKWARD, conditional)
        estimates.append((forward, backward))
    guided = []
    for unconditional, conditional in zip(*estimates, strict=True):
        if conditional is not None:
            out = torch.empty_like(conditional)
            for k in range(frames):
                scale = guidance[0] + (guidance[1] - guidance[0]) * k / (frames - 1)
                if not linear and directions != "forward":
                    scale = sum(guidance) / 2
                out[k] = unconditional[k] + scale * (conditional[k] - unconditional[k])
            guided.append(out)
    if directions == "forward":
        return guided[0]
    out = torch.empty_like(x)
    for k in range(frames):
        weight = 1 - k / (frames - 1) if linear else 0.5
        out[k] = weight * guided[0][k] + (1 - weight) * guided[1][frames - 1 - k]
    return out


def euler(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return denoised + sigma_next * (x - denoised) / sigma


def renoise(x: Tensor, sigma_next: float, sigma: float, noise: Tensor) -> Tensor:
    """From level `sigma_next` back up to level `sigma`."""
    return x + math.sqrt(sigma**2 - sigma_next**2) * noise


def euler_step(
    denoise: Callable[[Tensor, int], Tensor], levels: Sequence[float], draws: Draws, recurrence: int = 0, repeated: int = 0
) -> Step:
    """Euler steps, of which the first `repeated` are each done again `recurrence` times after renoising."""

    def step(x: Tensor, i: int) -> Tensor:
        sigma, sigma_next = levels[i], levels[i + 1]
        x = euler(x, denoise(x, i), sigma, sigma_next)
        for _ in range(recurrence if i < repeated else 0):
            x = renoise(x, sigma_next, sigma, next(draws))
            x = euler(x, denoise(x, i), sigma, sigma_next)
        return x

    return step


def lcm_step(denoise: Callable[[Tensor, int], Tensor], levels: Sequence[float], draws: Draws) -> Step:
    def step(x: Tensor, i: int) -> Tensor:
        x = denoise(x, i)
        if levels[i + 1] > 0:
            x = x + levels[i + 1] * next(draws)
        return x

    return step


def vibid_step(network: Network, levels: Sequence[float], draws: Draws, guidance: float = 1.0) -> Step:
    """A forward and a backward half with renoising between them; each sets its last frame to the keyframe there."""

    def half(x: Tensor, i: int, direction: int, target: Tensor) -> Tensor:
        unconditional = network.denoise(x, levels[i], direction, False)
        conditional = network.denoise(x, levels[i], direction, True)
        estimate = unconditional + guidance * (conditional - unconditional)
        estimate[-1] = target
        return estimate + levels[i + 1] * (x - unconditional) / levels[i]

    def step(x: Tensor, i: int) -> Tensor:
        x = half(x, i, FORWARD, network.last)
        x = renoise(x, levels[i + 1], levels[i], next(draws))
        return half(x.flip(0), i, BACKWARD, network.first).flip(0)

    return step


def with_mpd(
    step: Step, network: Network, levels: Sequence[float], draws: Draws, guidance: tuple[float, float] = (1.0, 1.0)
) -> Step:
    """MPD's three updates, each renoised to the same level, before each of the first 20 % of another method's steps.

    Args:
        guidance: scale at the first and the last frame; the published code has none.
    """

    def prefixed(x: Tensor, i: int) -> Tensor:
        for _ in range(3 if i < 0.2 * (len(levels) - 1) else 0):
            unconditional = network.denoise(x, levels[i], FORWARD, False)
            conditional = network.denoise(x, levels[i], FORWARD, True)
            scale = torch.linspace(*guidance, len(x), dtype=x.dtype)[:, None, None, None]
            forward = unconditional + scale * (conditional - unconditional)
            backward = mpd_by_residuals(x, forward, levels[i], network.last)
            backward[-1] = network.first
            x = backward.flip(0) + levels[i + 1] * (x - unconditional) / levels[i]
            x = renoise(x, levels[i + 1], levels[i], next(draws))
        return step(x, i)

    return prefixed


def mpd_by_residuals(x: Tensor, forward: Tensor, sigma: float, last: Tensor) -> Tensor:
    """MPD's backward estimate in reversed time, as in the paper: noise accumulated from the forward direction's residuals.

    Args:
        x: noisy latents in forward time.
        forward: their clean estimate by the forward direction.
        sigma: the noise level.
        last: clean latents of the last keyframe.
    """
    noise = (x - forward) / sigma
    residuals = noise[1:] - noise[:-1]
    reversed_x = x.flip(0)
    backward_noise = [(reversed_x[0] - last) / sigma]
    for residual in residuals.flip(0):
        backward_noise.append(backward_noise[-1] - residual)
    return reversed_x - sigma * torch.stack(backward_noise)


def mpd_by_shift(forward: Tensor, last: Tensor) -> Tensor:
    """The same estimate: the forward one plus one constant image, in reversed time."""
    return (forward + (last - forward[-1])).flip(0)


def trf_as_shipped(
    network: Network, levels: Sequence[float], initial: Tensor, draws: Draws, guidance: tuple[float, float]
) -> Tensor:
    """TRF's published code with its 50 steps: each direction takes its own Euler step, the results are fused linearly.

    After step 9, noise brings the latents back to the level of step 5, once. The published code adds that noise in five parts,
    and then scales the input of one prediction with a wrong level; this doesn't.
    """
    weight = torch.linspace(1, 0, len(initial), dtype=initial.dtype)[:, None, None, None]
    scale = torch.linspace(*guidance, len(initial), dtype=initial.dtype)[:, None, None, None]

    def step(x: Tensor, i: int) -> Tensor:
        stepped = []
        for direction in (FORWARD, BACKWARD):
            own = x if direction == FORWARD else x.flip(0)
            unconditional, conditional = (network.denoise(own, levels[i], direction, known) for known in (False, True))
            stepped.append(euler(own, unconditional + scale * (conditional - unconditional), levels[i], levels[i + 1]))
        return weight * stepped[0] + (weight * stepped[1]).flip(0)

    x = initial * math.sqrt(levels[0] ** 2 + 1)
    for i in range(10):
        x = step(x, i)
    x = renoise(x, levels[10], levels[5], next(draws))
    for i in range(5, len(levels) - 1):
        x = step(x, i)
    return x


def raised_rate(
    latents: Tensor,
    noise: Tensor,
    rate: int,
    levels: Sequence[float],
    windows: Sequence[tuple[int, int]],
    denoisers: Sequence[Callable[[Tensor, float], Tensor]],
) -> Tensor:
    """New frames between those of a clip, sampled in windows (first frame, length) at low noise levels (DiffuseSlide)."""
    start = [latents[0]]
    for first, second in itertools.pairwise(latents):
        angle = torch.arccos((first * second).sum() / (first.norm() * second.norm()))
        for k in range(1, rate + 1):
            weights = torch.sin((1 - k / rate) * angle), torch.sin(k / rate * angle)
            start.append((weights[0] * first + weights[1] * second) / torch.sin(angle))
    x = torch.stack(start) + levels[0] * noise
    for sigma, sigma_next in itertools.pairwise(levels):
        estimates: list[list[Tensor]] = [[] for _ in x]
        for (begin, length), denoise in zip(windows, denoisers, strict=True):
            for frame, estimate in enumerate(denoise(x[begin : begin + length], sigma), begin):
                estimates[frame].append(estimate)
        denoised = torch.stack([torch.stack(of_frame).mean(0) for of_frame in estimates])
        for k, original in enumerate(latents):
            denoised[k * rate] = original
        x = euler(x, denoised, sigma, sigma_next)
    return x
