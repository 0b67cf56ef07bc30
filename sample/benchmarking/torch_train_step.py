"""The training step in PyTorch on diffusers' UNet, like the official training script.

The frozen UNet stores the maps of its temporal self-attentions. The tuned UNet adds them, rotated, to its own maps times zero.
Its gradient keeps all activations. AdamW updates the value and output projections of its temporal self-attentions.

`python -m sample.benchmarking.torch_train_step` prints the peak memory of two steps, for
`sample.benchmarking.train_versus_diffusers`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sample.benchmarking import host_memory
from sample.benchmarking.torch_dual_step import OfficialStep, Weights, random_weights

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`svdjax.losses.finetuning.Examples` with PyTorch's axes; frames in reversed time, as in the official data; float32.

    Attributes:
        latents, noise: (b, f, c, h, w).
        sigma: (b,).
        image_embeds: of the first and last frame in forward time, (b, 2, 1, c).
        image_latents: of the same frames, (b, 2, c, h, w).
        added_time_ids: (b, 3).
    """

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    image_embeds: Tensor
    image_latents: Tensor
    added_time_ids: Tensor


class OfficialTrainStep:
    """A training step with the frozen and the tuned UNet, and its optimizer.

    Args:
        config: fields of `svdjax.config.UNetConfig`; diffusers has the same fields.
        forward: PyTorch's tensors by name, in the dtype of the frozen UNet. If this dtype has 16 bits, the tuned UNet
            holds them in float32 and computes under autocast, as in the official script.
        backward: the tensors of the tuned UNet that differ, float32; the kernels are trained, the biases are not.
        learning_rate: learning rate of AdamW.
    """

    def __init__(self, config: Mapping[str, Any], forward: Weights, backward: Weights, learning_rate: float):
        unets = OfficialStep(config, forward, {**{name: value.float() for name, value in forward.items()}, **backward})
        self.set_lean = unets.set_lean
        self.frozen, self.tuned = unets.forward, unets.backward
        self.dtype = self.frozen.dtype
        parameters = dict(self.tuned.named_parameters())
        self.trained = {name: parameters[name].requires_grad_() for name in backward if name.endswith(".weight")}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=learning_rate)  # the defaults are the script's settings

    def __call__(self, x: Batch) -> tuple[Tensor, Tensor]:
        """Run one step; return the loss, and the norm of the gradients before clipping."""
        sigma = x.sigma[:, None, None, None, None]
        noisy = x.latents + sigma * x.noise
        self._unet(self.frozen, noisy.flip(1), 0, x)
        v = self._unet(self.tuned, noisy, 1, x).float()
        denoised = noisy / (sigma**2 + 1) - v * sigma / (sigma**2 + 1) ** 0.5
        weight = (1 + sigma**2) / sigma**2
        loss = (weight * (denoised - x.latents) ** 2).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), norm

    def moments(self) -> dict[str, Tensor]:
        """AdamW's first moments by name; after the first step they are a tenth of the clipped gradients."""
        return {name: self.optimizer.state[value]["exp_avg"] for name, value in self.trained.items()}

    def _unet(self, unet: Any, noisy: Tensor, end: int, x: Batch) -> Tensor:
        scaled = noisy / (x.sigma[:, None, None, None, None] ** 2 + 1) ** 0.5
        image = x.image_latents[:, end, None].expand(-1, noisy.shape[1], -1, -1, -1)
        sample = torch.cat([scaled, image], dim=2)
        arguments = (sample, 0.25 * x.sigma.log(), x.image_embeds[:, end])
        autocast = unet is self.tuned and self.dtype != torch.float32
        if unet is self.frozen:
            arguments = tuple(a.to(self.dtype) for a in arguments)
        with torch.autocast(sample.device.type, self.dtype, enabled=autocast):
            return unet(*arguments, added_time_ids=x.added_time_ids, return_dict=False)[0]


def random_step(
    config: Mapping[str, Any], batch_size: int, latent_shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[OfficialTrainStep, Batch]:
    """A step with random values, to measure memory; `latent_shape` is (f, h, w, c)."""
    forward, tuned = random_weights(config, dtype)
    f, h, w, c = latent_shape
    batch = Batch(
        latents=torch.randn(batch_size, f, c, h, w),
        noise=torch.randn(batch_size, f, c, h, w),
        sigma=torch.ones(batch_size),
        image_embeds=torch.randn(batch_size, 2, 1, config["cross_attention_dim"][0]),
        image_latents=torch.randn(batch_size, 2, c, h, w),
        added_time_ids=torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch_size, 1),
    )
    return OfficialTrainStep(config, forward, {name: value.float() for name, value in tuned.items()}, 1e-4), batch


def main() -> None:
    """Read `config`, `batch_size`, `latent_shape`, `dtype` and `threads` as JSON; print the peak memory of two steps."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    latent_shape, dtype = tuple(request["latent_shape"]), getattr(torch, request["dtype"])
    step, batch = random_step(request["config"], request["batch_size"], latent_shape, dtype)
    host_memory.reset()
    for _ in range(2):  # the second one starts with the optimizer's state in memory
        step(batch)
    print(json.dumps({"peak_bytes": host_memory.peak()}))


if __name__ == "__main__":
    main()
