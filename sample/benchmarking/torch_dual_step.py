"""The sampling step in PyTorch on diffusers' UNet, like the official code of Generative Inbetweening.

Two UNets are called in sequence, each on an unconditional and a conditional clip. The forward UNet computes the maps of its
temporal self-attentions explicitly and stores them; the backward UNet uses them, rotated.

`python -m sample.benchmarking.torch_dual_step` prints the peak memory of a step, for
`sample.benchmarking.versus_diffusers`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor

from sample.benchmarking import host_memory

Weights = Mapping[str, Tensor]


def own_maps(attn: Any, x: Tensor) -> Tensor:
    """The maps of a temporal self-attention: x (b*s, f, c) -> (b*s*n, f, f)."""
    q, k = (attn.head_to_batch_dim(to(x)) for to in (attn.to_q, attn.to_k))
    return attn.get_attention_scores(q, k)


def apply_maps(attn: Any, maps: Tensor, x: Tensor) -> Tensor:
    """The output (b*s, f, c) of an attention layer for its input `x` (b*s, f, c) and given maps (b*s*n, f, f)."""
    values = attn.head_to_batch_dim(attn.to_v(x))
    return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(maps, values)))


class Storing:
    """Attention processor of the forward UNet: stores the maps."""

    maps: Tensor

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None, attention_mask: None) -> Tensor:
        self.maps = own_maps(attn, hidden_states)
        return apply_maps(attn, self.maps, hidden_states)


class Rotating:
    """Attention processor of the backward UNet: uses the maps of its partner, rotated by 180 degrees.

    Attributes:
        partner: processor of the same layer in the forward UNet.
        lean: whether to omit the layer's own maps, which the official code computes and multiplies by zero.
    """

    def __init__(self, partner: Storing):
        self.partner = partner
        self.lean = False

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None, attention_mask: None) -> Tensor:
        maps = self.partner.maps.flip(-2, -1)
        if not self.lean:
            maps = own_maps(attn, hidden_states) * 0.0 + maps
        return apply_maps(attn, maps, hidden_states)


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """`sample.benchmarking.workloads.StepInputs` with PyTorch's axes; float32 except for the embeddings.

    Attributes:
        latents: (1, f, c, h, w).
        image_latents: (2, 1, c, h, w).
        image_embeds: (2, 1, 1, c), in the UNets' dtype.
        added_time_ids: (1, 3).
        scale: guidance scale of each frame, (f,).
        weight: weight of the forward direction for each frame, (f,).
        sigma, sigma_next: noise levels before and after the step.
    """

    latents: Tensor
    image_latents: Tensor
    image_embeds: Tensor
    added_time_ids: Tensor
    scale: Tensor
    weight: Tensor
    sigma: float
    sigma_next: float


class OfficialStep:
    """A sampling step with the forward and the backward UNet.

    Args:
        config: fields of `svdjax.config.UNetConfig`; diffusers has the same fields.
        forward: PyTorch's tensors by name.
        backward: the tensors of the backward UNet that differ. The others are held once for both UNets; the official code holds
            them twice, which takes more memory but no time.
    """

    def __init__(self, config: Mapping[str, Any], forward: Weights, backward: Weights):
        self.forward = _unet(config, forward)
        self.backward = _unet(config, {**forward, **backward})
        self.rotating = []
        for ours, theirs in zip(_temporal_attentions(self.forward), _temporal_attentions(self.backward), strict=True):
            partner = Storing()
            ours.set_processor(partner)
            theirs.set_processor(Rotating(partner))
            self.rotating.append(theirs.processor)

    def set_lean(self, lean: bool) -> None:
        """Choose whether the backward UNet omits its unused maps."""
        for processor in self.rotating:
            processor.lean = lean

    @torch.inference_mode()
    def __call__(self, x: StepInputs) -> tuple[Tensor, Tensor]:
        """Run the step; return the new latents and the v-prediction, both (1, f, c, h, w)."""
        c_in = (x.sigma**2 + 1) ** -0.5
        v_forward = self._guided(self.forward, x.latents * c_in, 0, x)
        v_backward = self._guided(self.backward, x.latents.flip(1) * c_in, 1, x).flip(1)
        weight = x.weight[:, None, None, None]
        v = weight * v_forward + (1 - weight) * v_backward
        denoised = x.latents / (x.sigma**2 + 1) - x.sigma * c_in * v
        return x.latents + (x.latents - denoised) / x.sigma * (x.sigma_next - x.sigma), v

    def _guided(self, unet: Any, noisy: Tensor, direction: int, x: StepInputs) -> Tensor:
        image = x.image_latents[direction][:, None].expand_as(noisy)
        sample = torch.cat([torch.cat([noisy, noisy]), torch.cat([torch.zeros_like(image), image])], dim=2)
        embeds = torch.cat([torch.zeros_like(x.image_embeds[direction]), x.image_embeds[direction]])
        c_noise = 0.25 * torch.log(torch.tensor(x.sigma, device=noisy.device))
        ids = x.added_time_ids.expand(2, -1)
        v = unet(sample.to(unet.dtype), c_noise, embeds, added_time_ids=ids, return_dict=False)[0].to(noisy.dtype)
        unconditional, conditional = v.chunk(2)
        return unconditional + x.scale[:, None, None, None] * (conditional - unconditional)


def _unet(config: Mapping[str, Any], weights: Weights) -> Any:
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**config)
    unet.load_state_dict(dict(weights), assign=True)
    return unet.requires_grad_(False).eval()


def _temporal_attentions(unet: Any) -> list[Any]:
    return [m for name, m in unet.named_modules() if name.endswith(".attn1") and "temporal_transformer_blocks" in name]


def random_weights(config: Mapping[str, Any], dtype: torch.dtype) -> tuple[Weights, Weights]:
    """Random tensors by name: of the forward UNet, and those that differ in the backward UNet."""
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in UNetSpatioTemporalConditionModel(**config).state_dict().items()}
    forward = {name: 0.02 * torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    tuned = [n for n in shapes if "temporal_transformer_blocks" in n and (".attn1.to_v." in n or ".attn1.to_out." in n)]
    return forward, {name: forward[name].clone() for name in tuned}


def random_inputs(config: Mapping[str, Any], latent_shape: tuple[int, int, int, int], dtype: torch.dtype) -> StepInputs:
    """Random inputs of a step; `latent_shape` is (f, h, w, c)."""
    f, h, w, c = latent_shape
    return StepInputs(
        latents=torch.randn(1, f, c, h, w),
        image_latents=torch.randn(2, 1, c, h, w),
        image_embeds=torch.randn(2, 1, 1, config["cross_attention_dim"][0], dtype=dtype),
        added_time_ids=torch.tensor([[6.0, 127.0, 0.02]]),
        scale=torch.full((f,), 2.0),
        weight=torch.full((f,), 0.5),
        sigma=1.0,
        sigma_next=0.5,
    )


def random_step(
    config: Mapping[str, Any], latent_shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[OfficialStep, StepInputs]:
    """A step with random values, to measure memory; `latent_shape` is (f, h, w, c)."""
    return OfficialStep(config, *random_weights(config, dtype)), random_inputs(config, latent_shape, dtype)


def main() -> None:
    """Read `config`, `latent_shape`, `dtype` and `threads` as JSON from standard input; print the peak memory of a step."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    step, inputs = random_step(request["config"], tuple(request["latent_shape"]), getattr(torch, request["dtype"]))
    host_memory.reset()
    step(inputs)
    print(json.dumps({"peak_bytes": host_memory.peak()}))


if __name__ == "__main__":
    main()
