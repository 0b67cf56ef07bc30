"""Record outputs of the official PyTorch modules with the embedded model's weights, in float64, for the parity part.

`python -m sample.report_parts.recording FILE.npz` writes the arrays; it needs the test extra. The file is part of the package,
so the parity part of a report needs no PyTorch.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

import svdjax
from sample.benchmarking.versus_diffusers import to_torch
from sample.benchmarking.workloads import SIGMA, SIGMA_NEXT
from svdjax import embedded_model
from svdjax.loading import find_model
from svdjax.models.svd import leaves
from svdjax.sampling.conditioning import LEVELS
from svdjax.sampling.settings import Settings
from svdjax.world.drawing import render
from svdjax.world.scene import scene

FILE = embedded_model.SOURCE / "official_outputs.npz"
CLIP = ("test", 11)  # split and number of the recorded clip of the embedded world
EVERY = 2  # of the decoded frames, every second row and column is stored
TIME_IDS = (6.0, 127.0, 0.02)


def record() -> dict[str, np.ndarray]:
    """The inputs and outputs of each stage; every stage starts from recorded inputs.

    Returns:
        clip: frames, uint8 (f, H, W, 3).
        image_embeds: of the first and last frame, (2, 1, 1, c).
        image_latents: of the same frames, (2, 1, h, w, c).
        noisy: latents before the step, (1, f, h, w, c).
        v: v-prediction of the step of both directions with guidance, (1, f, h, w, c).
        latents: latents of all frames, not scaled, (1, f, h, w, c).
        frames: their decoding, every second row and column, (1, f, H/2, W/2, 3).
    """
    import torch

    from sample.benchmarking.torch_dual_step import OfficialStep, StepInputs

    clip = render(scene(*CLIP))
    pixels = torch.from_numpy(np.moveaxis(LEVELS[clip], -1, -3)).double()
    encoder, vae = _official_encoders()
    with torch.inference_mode():
        normalised = (pixels[[0, -1]] + 1) / 2
        config = find_model("embedded").config
        statistics = config.image_encoder.image_mean, config.image_encoder.image_std
        mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in statistics)
        embeds = encoder((normalised - mean) / std).image_embeds[:, None, None]
        latents = vae.encode(pixels).latent_dist.mode()
        frames = vae.decode(latents, num_frames=len(clip)).sample
    noise = np.random.default_rng(0).standard_normal((1, *_last(latents).shape)).astype(np.float32)
    noisy = np.float32(config.vae.scaling_factor) * _last(latents)[None] + np.float32(SIGMA) * noise
    settings = Settings(num_frames=len(clip))
    model = svdjax.load("embedded", dtype="float32")
    assert model.backward is not None
    step = OfficialStep(
        dataclasses.asdict(config.unet),
        to_torch(leaves(model.unet), "float64", "cpu"),
        to_torch(model.backward, "float64", "cpu"),
    )
    _, v = step(
        StepInputs(
            latents=torch.from_numpy(np.moveaxis(noisy, -1, -3)).double(),
            image_latents=latents[[0, -1]][:, None].float().double(),
            image_embeds=embeds.float().double(),
            added_time_ids=torch.tensor([TIME_IDS], dtype=torch.float64),
            scale=torch.tensor(settings.guidance_scale(), dtype=torch.float64),
            weight=torch.tensor(settings.forward_weight(), dtype=torch.float64),
            sigma=SIGMA,
            sigma_next=SIGMA_NEXT,
        )
    )
    return {
        "clip": clip,
        "image_embeds": embeds.float().numpy(),
        "image_latents": _last(latents)[[0, -1]][:, None],
        "noisy": noisy,
        "v": _last(v),
        "latents": _last(latents)[None],
        "frames": _last(frames)[None, :, ::EVERY, ::EVERY],
    }


def _official_encoders() -> tuple[Any, Any]:
    """The image encoder and the VAE of transformers and diffusers with the embedded model's weights, float64."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
    from transformers import CLIPVisionModelWithProjection

    load = {"local_files_only": True, "torch_dtype": torch.float64}
    encoder = CLIPVisionModelWithProjection.from_pretrained(embedded_model.SOURCE / "image_encoder", **load)
    vae = AutoencoderKLTemporalDecoder.from_pretrained(embedded_model.SOURCE / "vae", low_cpu_mem_usage=False, **load)
    return encoder.eval(), vae.eval()


def _last(x: Any) -> np.ndarray:
    """PyTorch's (..., c, h, w) -> float32 (..., h, w, c)."""
    return np.ascontiguousarray(np.moveaxis(x.float().numpy(), -3, -1))


if __name__ == "__main__":
    arrays: dict[str, Any] = record()
    np.savez_compressed(Path(sys.argv[1]), **arrays)
