"""diffusers' UNet as a predictor of clean latents in either direction of time: float64, one clip a call.

Latents are (f, c, h, w), as in PyTorch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import goldens
import numpy as np
import torch
from torch import Tensor

FORWARD, BACKWARD = 0, 1


class TemporalAttention:
    """An attention processor of diffusers for self-attention over time: keeps the last map, or uses a given one."""

    def __init__(self) -> None:
        self.map: Tensor | None = None
        self.given: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, **_: None) -> Tensor:
        q, k, v = (attn.head_to_batch_dim(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        self.map = torch.softmax(q @ k.transpose(1, 2) * attn.scale, -1) if self.given is None else self.given
        return attn.to_out[0](attn.batch_to_head_dim(self.map @ v))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads take ten times as long for arrays as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Network:
    """The forward UNet, the backward UNet, and the conditioning on both keyframes.

    Args:
        config: of diffusers' UNet.
        tensors: of the forward UNet, by PyTorch name.
        backward: of the backward UNet; None: the forward ones.
        rotated: whether the temporal self-attention of a name uses the forward direction's map, rotated, in the backward one.
        image_embeds: CLIP embeddings of the first and the last keyframe, (2, 1, c).
        image_latents: VAE latents of the noised keyframes, (2, h, w, c).
        clean_latents: VAE latents of the keyframes, scaled, (2, h, w, c).
        time_ids: (3,).
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: goldens.Tensors,
        backward: goldens.Tensors | None,
        rotated: Callable[[str], bool],
        image_embeds: np.ndarray,
        image_latents: np.ndarray,
        clean_latents: np.ndarray,
        time_ids: np.ndarray,
    ) -> None:
        self.unets = [_unet(config, tensors), _unet(config, backward or tensors)]
        self.attention = [_set_processors(unet) for unet in self.unets]
        self.rotated = rotated
        self.image_embeds = torch.tensor(image_embeds, dtype=torch.float64)
        self.image_latents, clean = (_channels_first(x) for x in (image_latents, clean_latents))
        self.first, self.last = clean
        self.time_ids = torch.tensor(time_ids, dtype=torch.float64)

    def denoise(self, x: Tensor, sigma: float, direction: int, conditional: bool) -> Tensor:
        """Clean latents in the direction's own time from noisy ones in its own time; every layer uses its own map."""
        for attention in self.attention[direction].values():
            attention.given = None
        return self._denoise(x, sigma, direction, conditional)

    def denoise_rotated(self, x: Tensor, sigma: float, conditional: bool) -> tuple[Tensor, Tensor]:
        """Clean latents of both directions, each in its own time, from noisy ones in forward time.

        The backward direction uses the rotated maps of the forward one, both with or both without conditioning.
        """
        forward = self.denoise(x, sigma, FORWARD, conditional)
        for name, attention in self.attention[BACKWARD].items():
            map = self.attention[FORWARD][name].map
            assert map is not None
            attention.given = rotate_180(map) if self.rotated(name) else None
        return forward, self._denoise(x.flip(0), sigma, BACKWARD, conditional)

    @torch.no_grad()
    @_one_thread()
    def _denoise(self, x: Tensor, sigma: float, direction: int, conditional: bool) -> Tensor:
        embeds, image = self.image_embeds[direction], self.image_latents[direction]
        if not conditional:
            embeds, image = torch.zeros_like(embeds), torch.zeros_like(image)
        scaled = x / math.sqrt(sigma**2 + 1)
        v = self.unets[direction](
            torch.cat([scaled, image.expand_as(x)], 1)[None],
            torch.tensor(math.log(sigma) / 4, dtype=torch.float64),
            embeds[None],
            self.time_ids[None],
            return_dict=False,
        )[0][0]
        return x / (sigma**2 + 1) - v * sigma / math.sqrt(sigma**2 + 1)


def rotate_180(map: Tensor) -> Tensor:
    """Attention map (n, f, f) of the reversed video."""
    return map.flip(1, 2)


def _unet(config: Mapping[str, Any], tensors: goldens.Tensors) -> Any:
    unet = goldens.torch_model("unet", config).double()
    unet.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    return unet


def _set_processors(unet: Any) -> dict[str, TemporalAttention]:
    """Give every temporal self-attention a processor of its own."""
    processors = {}
    for name, module in unet.named_modules():
        if ".temporal_transformer_blocks." in name and name.endswith(".attn1"):
            processors[name] = TemporalAttention()
            module.set_processor(processors[name])
    return processors


def _channels_first(x: np.ndarray) -> Tensor:
    return torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float64)
