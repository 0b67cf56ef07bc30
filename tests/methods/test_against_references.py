"""Every sampler against its plainest form around diffusers' UNet: random weights, the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import goldens
import numpy as np
import plain_samplers as samplers
import pytest
import torch
from plain_model import FRAMES, backward_of, conditioning, draws, images, network, torch_noise, unet
from plain_network import Network

from svdjax.config import EDMConfig
from svdjax.sampling import methods
from svdjax.sampling.methods import METHODS
from svdjax.sampling.sampler import sample

# Differences are 3e-7 to 4e-5. A wrong sign, level, frame or order of draws changes the latents by 1e-3 to 1.
TOLERANCE = 1e-4


def ours(method: str, given: dict[str, Any], scheduler: EDMConfig) -> tuple[np.ndarray, int]:
    """Final latents (f, c, h, w) of our sampler, and the number of draws that it uses after the initial noise."""
    settings = methods.settings_of(method, {"num_frames": FRAMES, **given}, {})
    directions = METHODS[method].directions
    latents = sample(
        unet(),
        conditioning(directions),
        settings,
        draws(),
        scheduler=scheduler,
        backward=backward_of(method),
        method=method,
        passes="together",  # programs of one update serve every number of steps
    )
    return np.moveaxis(np.asarray(latents)[0], -1, 1), methods.run_of(method, settings, scheduler).recurrences


Reference = Callable[[list[float], torch.Tensor, samplers.Draws], torch.Tensor]


def plain(net: Network, directions: str, *, guided: tuple[int, int] | None = None, **options: Any) -> Any:
    """A network, and levels -> its fused clean estimate; with guidance only in the steps of `guided`."""

    def denoiser(levels: list[float]) -> Callable[[torch.Tensor, int], torch.Tensor]:
        def denoise(x: torch.Tensor, i: int) -> torch.Tensor:
            off: dict[str, Any] = {} if guided is None or i in range(*guided) else {"guidance": (1.0, 1.0)}
            return samplers.fused(net, x, levels[i], directions=directions, **(options | off))

        return denoise

    return net, denoiser


def own_maps(**options: Any) -> Any:
    return plain(network(False, ()), "own", **options)


def rotated_maps(**options: Any) -> Any:
    return plain(network(True, ("",)), "rotated", **options)


def only_forward(**options: Any) -> Any:
    return plain(network(False, ()), "forward", **options)


def euler(network_of: Any, *, mpd: bool = False, recurrence: int = 0, repeated: int = 0, **options: Any) -> Reference:
    guidance = options.get("guidance", (1.0, 1.0))

    def reference(levels: list[float], initial: torch.Tensor, noise: samplers.Draws) -> torch.Tensor:
        net, denoiser = network_of(**options)
        step = samplers.euler_step(denoiser(levels), levels, noise, recurrence, repeated)
        return samplers.run(samplers.with_mpd(step, net, levels, noise, guidance) if mpd else step, levels, initial)

    return reference


def lcm(network_of: Any, **options: Any) -> Reference:
    def reference(levels: list[float], initial: torch.Tensor, noise: samplers.Draws) -> torch.Tensor:
        _, denoiser = network_of(**options)
        return samplers.run(samplers.lcm_step(denoiser(levels), levels, noise), levels, initial)

    return reference


def vibid(*, mpd: bool = False, guidance: float = 1.0) -> Reference:
    def reference(levels: list[float], initial: torch.Tensor, noise: samplers.Draws) -> torch.Tensor:
        net, _ = own_maps()
        step = samplers.vibid_step(net, levels, noise, guidance)
        return samplers.run(samplers.with_mpd(step, net, levels, noise) if mpd else step, levels, initial)

    return reference


def trf_as_shipped(guidance: tuple[float, float]) -> Reference:
    return lambda levels, initial, noise: samplers.trf_as_shipped(own_maps()[0], levels, initial, noise, guidance)


LEVELS = {"edm": samplers.karras_levels, "ays": samplers.ays_levels, "lcm": samplers.lcm_levels}
Case = tuple[str, dict[str, Any], Reference]  # method, settings, plain form
QUICK: dict[str, Case] = {
    "vibid": ("vibid", {"steps": 4}, vibid()),
    "mpd+vibid": ("vibid", {"steps": 6, "prefix": "mpd"}, vibid(mpd=True)),
    "mpd+trf": ("trf", {"steps": 4, "prefix": "mpd", "schedule": "ays"}, euler(own_maps, mpd=True)),
    "lcm trf": ("trf", {"steps": 4, "schedule": "lcm"}, lcm(own_maps)),
    "trf-shipped": ("trf-shipped", {"steps": 12, "guidance": (1.0, 1.0)}, trf_as_shipped((1.0, 1.0))),
}
HEAVY: dict[str, Case] = {
    "vibid, guidance": ("vibid", {"steps": 3, "guidance": (2.0, 2.0), "schedule": "ays"}, vibid(guidance=2.0)),
    "mpd+dual": ("dual", {"steps": 4, "prefix": "mpd", "schedule": "ays"}, euler(rotated_maps, mpd=True)),
    "lcm dual": ("dual", {"steps": 4, "schedule": "lcm"}, lcm(rotated_maps)),
    "trf-shipped, guidance": ("trf-shipped", {"steps": 12}, trf_as_shipped((1.0, 3.0))),
    "mpd+trf, recurrence": (
        "trf",
        {"steps": 7, "prefix": "mpd", "recurrence": 1, "fusion": "linear"},
        euler(own_maps, mpd=True, recurrence=1, repeated=3, linear=True),
    ),
    "mpd+dual, guidance": (
        "dual",
        {"steps": 4, "prefix": "mpd", "guidance": (1.0, 3.0), "fusion": "linear"},
        euler(rotated_maps, mpd=True, guidance=(1.0, 3.0), linear=True),
    ),
    "ays trf": ("trf", {"steps": 13, "schedule": "ays"}, euler(own_maps, guidance=(1.0, 3.0))),
    "ays dual": ("dual", {"steps": 10, "schedule": "ays"}, euler(rotated_maps, guidance=(1.0, 3.0))),
    "lcm forward": ("forward", {"steps": 8, "schedule": "lcm"}, lcm(only_forward)),
    "lcm, one step": ("trf", {"steps": 1, "schedule": "lcm"}, lcm(own_maps)),
    "lcm guided": ("dual", {"steps": 3, "schedule": "lcm", "guidance": (1.0, 1.2)}, lcm(rotated_maps, guidance=(1.0, 1.2))),
    "guidance in steps": (
        "dual",
        {"steps": 5, "guidance_steps": (1, 3), "recurrence": 2},
        euler(rotated_maps, guidance=(1.0, 3.0), guided=(1, 3), recurrence=2, repeated=2),
    ),
}
# With SVD's noise levels, latents are mostly noise in the early steps, and a mistake there hardly changes the result.
LOW = EDMConfig(sigma_max=5.0, sigma_min=0.05)


def check(case: Case, scheduler: EDMConfig) -> None:
    method, given, reference = case
    actual, count = ours(method, given, scheduler)
    initial, noise = torch_noise(count)
    levels = LEVELS[given.get("schedule", "edm")](given["steps"], scheduler.sigma_max, scheduler.sigma_min)
    expected = reference(levels, initial, noise)
    assert next(noise, None) is None, "the reference uses fewer draws"
    assert goldens.relative(actual, expected) < TOLERANCE


@pytest.mark.parametrize("case", QUICK)
def test_latents(case):
    check(QUICK[case], LOW)


@pytest.mark.heavy
@pytest.mark.parametrize("case", HEAVY)
def test_latents_of_other_settings(case):
    check(HEAVY[case], LOW)


@pytest.mark.heavy
@pytest.mark.parametrize("case", QUICK | HEAVY)
def test_latents_with_noise_levels_of_svd(case):
    check((QUICK | HEAVY)[case], EDMConfig())


def test_first_frame_of_vibid():
    """It ends with a backward half, so only the first frame is exactly the keyframe's latent."""
    latents, _ = ours("vibid", {"steps": 4}, LOW)
    keyframes = np.moveaxis(images()[2], -1, 1)
    np.testing.assert_allclose(latents[0], keyframes[0], rtol=1e-6)
    assert goldens.relative(latents[-1], keyframes[1]) > 1e-3


def test_mpd_is_a_shift():
    """The published form, residuals of the forward noise accumulated in reversed time, adds one image to all frames."""
    x, forward = torch.randn(2, 6, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_residuals = samplers.mpd_by_residuals(x, forward, 7.0, last=x[2])
    torch.testing.assert_close(by_residuals, samplers.mpd_by_shift(forward, last=x[2]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_residuals[0], x[2])
