"""How training from scratch begins: random weights with which every network is nearly linear, so that it learns at once.

Residual branches begin as nothing, as those of diffusion UNets and residual networks do (Goyal et al. 2017, section 5.1, and
ADM's `zero_module`): the VAE then is a linear autoencoder, which finds colours in tens of steps instead of hundreds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

LOG_VARIANCE = -6.0  # of the VAE's latents at first: were they mostly noise, nothing would come through

_ZERO = {  # what ends a residual branch, by network
    "vae": r".*\.conv2\.kernel|.*\.attentions\.\d+\.to_out\.kernel",
    "unet": r".*\.conv2\.kernel|.*\.attentions\.\d+\.proj_out\.kernel|conv_out\.kernel",
}


def begin(network: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors to begin with, from random ones.

    Args:
        network: a key of `svdjax.models.svd.NETWORKS`.
        tensors: all of its tensors by dotted name.
    """
    pattern = _ZERO.get(network)
    made = {name: jnp.zeros_like(x) if pattern and re.fullmatch(pattern, name) else x for name, x in tensors.items()}
    if network == "vae":
        bias = made["quant_conv.bias"]
        made["quant_conv.bias"] = bias.at[bias.shape[0] // 2 :].set(LOG_VARIANCE)
        kernel = made["decoder.time_conv_out.kernel"]  # (3 frames, 3, 3): each frame as it is
        made["decoder.time_conv_out.kernel"] = jnp.zeros_like(kernel).at[1].set(jnp.eye(3, dtype=kernel.dtype))
    return made
