"""Initialization of training from scratch: random weights with zero residual branches.

Every network is then nearly linear and learns from the first steps on, as in Goyal et al. 2017, section 5.1, and in ADM
(`zero_module`). The VAE starts as a linear autoencoder and learns colours in tens of steps instead of hundreds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

LOG_VARIANCE = -6.0  # initial log variance of the VAE's latents: more noise would hide their mean

# Last layers of the residual branches of each network: patterns, each of which matches at least one tensor name.
ZERO = {
    "vae": (r".*\.conv2\.kernel", r".*\.attentions\.\d+\.to_out\.kernel"),
    "unet": (r".*\.conv2\.kernel", r".*\.attentions\.\d+\.proj_out\.kernel", r"conv_out\.kernel"),
    "image_encoder": (),
}


def zero_branches(network: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Initial tensors of a network.

    Args:
        network: a key of `svdjax.models.svd.NETWORKS`.
        tensors: all of its tensors by dotted name, random.

    Returns:
        The same tensors with the last layers of residual branches zero; the VAE's latents have little noise, and its last
        temporal convolution is the identity.

    Raises:
        ValueError: an unknown network, or a pattern of `ZERO` that matches no tensor.
    """
    if network not in ZERO:
        raise ValueError(f"{network}: is not in `ZERO`, expected one of {', '.join(ZERO)}")
    result = dict(tensors)
    for pattern in ZERO[network]:
        names = [name for name in tensors if re.fullmatch(pattern, name)]
        if not names:
            raise ValueError(f"{network}: no tensor matches {pattern} of `ZERO`")
        result |= {name: jnp.zeros_like(tensors[name]) for name in names}
    if network == "vae":
        bias = result["quant_conv.bias"]
        result["quant_conv.bias"] = bias.at[bias.shape[0] // 2 :].set(LOG_VARIANCE)
        kernel = result["decoder.time_conv_out.kernel"]  # (3 frames, 3, 3); identity on the middle frame
        result["decoder.time_conv_out.kernel"] = jnp.zeros_like(kernel).at[1].set(jnp.eye(3, dtype=kernel.dtype))
    return result
