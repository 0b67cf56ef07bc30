"""CLIP's vision tower with projection, for the image embedding of a keyframe. Parameter paths as in transformers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config import CLIPConfig
from svdjax.errors import InputError
from svdjax.models.convolution import NO_PADDING, Conv
from svdjax.models.initialize import Keys
from svdjax.models.layers import LayerNorm, Linear, gelu
from svdjax.models.spatial_attention import spatial_attention


def quick_gelu(x: Array) -> Array:
    """x * sigmoid(1.702 x), the approximation of GELU in OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


class Embeddings(nnx.Module):
    """A class token and the patches of the image as tokens, with learned position embeddings."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        dim, patch = config.hidden_size, config.patch_size
        positions = (config.image_size // patch) ** 2 + 1
        init = nnx.initializers.normal(0.02)
        self.class_embedding = nnx.Param(init(kw["rngs"].params(), (dim,), kw["param_dtype"]))
        self.patch_embedding = Conv(config.num_channels, dim, patch, stride=patch, pads=NO_PADDING, use_bias=False, **kw)
        self.position_embedding = nnx.Embed(positions, dim, **kw)

    def __call__(self, pixel_values: Array) -> Array:
        """(b, h, w, 3) -> (b, s, c), the class token first, patches row by row."""
        patches = self.patch_embedding(pixel_values)
        b, _, _, c = patches.shape
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (b, 1, c))
        positions = self.position_embedding.embedding[...].astype(patches.dtype)
        return jnp.concatenate([first, patches.reshape(b, -1, c)], axis=1) + positions


class SelfAttention(nnx.Module):
    """Multi-head self-attention over the tokens of each image."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        dim = config.hidden_size
        self.q_proj = Linear(dim, dim, **kw)
        self.k_proj = Linear(dim, dim, **kw)
        self.v_proj = Linear(dim, dim, **kw)
        self.out_proj = Linear(dim, dim, **kw)
        self.heads = config.num_attention_heads

    def __call__(self, x: Array) -> Array:
        """(b, s, c) -> (b, s, c)."""
        q, k, v = (to(x).reshape(*x.shape[:2], self.heads, -1) for to in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(spatial_attention(q, k, v).reshape(x.shape))


class MLP(nnx.Module):
    """Two dense layers with the configured activation between them."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, **kw)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, **kw)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Array) -> Array:
        """(b, s, c) -> (b, s, c)."""
        return self.fc2(self.activation(self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        self.layer_norm1 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **kw)
        self.self_attn = SelfAttention(config, **kw)
        self.layer_norm2 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **kw)
        self.mlp = MLP(config, **kw)

    def __call__(self, x: Array) -> Array:
        """(b, s, c) -> (b, s, c)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """All layers of the transformer."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        self.layers = nnx.List([EncoderLayer(config, **kw) for _ in range(config.num_hidden_layers)])

    def __call__(self, x: Array) -> Array:
        """(b, s, c) -> (b, s, c)."""
        for layer in self.layers:
            x = layer(x)
        return x


class VisionModel(nnx.Module):
    """The tower without its projection."""

    def __init__(self, config: CLIPConfig, **kw: Any):
        self.embeddings = Embeddings(config, **kw)
        self.pre_layrnorm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **kw)  # transformers' spelling
        self.encoder = Encoder(config, **kw)
        self.post_layernorm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **kw)


class CLIPVision(nnx.Module):
    """Image embeddings (transformers: CLIPVisionModelWithProjection), channels last.

    Args of the constructor:
        config: widths, image and patch size, activation, mean and standard deviation of the pixels.
        dtype: compute dtype; norm statistics and softmax are never below float32.
        param_dtype: dtype of the parameters.
        rngs: keys for a random initialisation.
    """

    def __init__(self, config: CLIPConfig, *, dtype: Any, param_dtype: Any, rngs: Keys):
        kw = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.config = config
        self.vision_model = VisionModel(config, **kw)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, use_bias=False, **kw)

    def last_hidden_state(self, pixel_values: Array) -> Array:
        """Tokens after the last layer, before the final norm: (b, h, w, 3) -> (b, s, c), the class token first."""
        size = self.config.image_size
        if pixel_values.shape[1:] != (size, size, 3):
            raise InputError(f"pixel_values has shape {pixel_values.shape}, expected (b, {size}, {size}, 3)")
        model = self.vision_model
        return model.encoder(model.pre_layrnorm(model.embeddings(pixel_values)))

    def __call__(self, pixel_values: Array) -> Array:
        """Image embeddings.

        Args:
            pixel_values: (b, image_size, image_size, 3), normalised with `config.image_mean` and `config.image_std`
                (see `conditioning.clip_pixels`).

        Returns:
            image_embeds (b, projection_dim).

        Raises:
            InputError: images of another size.
        """
        class_token = self.last_hidden_state(pixel_values)[:, 0]
        return self.visual_projection(self.vision_model.post_layernorm(class_token))
