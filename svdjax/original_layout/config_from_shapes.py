"""The configuration of a model from the names and shapes of its tensors in the original layout.

Shapes don't tell the number of attention heads, of frames, and a few constants. Heads have SVD's widths, the rest are SVD-XT's
values. Files that svdjax wrote hold the whole configuration.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

from svdjax.checkpoints.safetensors_reader import StoredTensor
from svdjax.config import CLIPConfig, SVDConfig, UNetConfig, VAEConfig
from svdjax.errors import InputError
from svdjax.original_layout.name_table import DECODER, UNET, VISION

UNET_HEAD = 64  # channels of an attention head
VISION_HEADS = {1280: 16}  # ViT-H/14; other widths have heads of 64 channels

Headers = Mapping[str, StoredTensor]


def config_of(headers: Headers, num_frames: int, encoder: str) -> SVDConfig:
    """The configuration that the shapes describe.

    Args:
        headers: name and shape of each tensor.
        num_frames: frames per clip, which shapes don't tell.
        encoder: prefix of the VAE's encoder.

    Raises:
        InputError: a tensor that every SVD has is missing or has the wrong number of axes, or impossible sizes. The message
            doesn't name the file.
    """
    return SVDConfig(unet=_unet(headers, num_frames), vae=_vae(headers, encoder), image_encoder=_vision(headers))


def _unet(headers: Headers, num_frames: int) -> UNetConfig:
    widths, attends, layers, depths = [], [], [0], [1]
    for block in itertools.count(1):
        path = f"{UNET}input_blocks.{block}."
        if f"{path}0.op.weight" in headers:  # a new level starts
            layers.append(0)
            depths.append(1)
        elif f"{path}0.in_layers.2.weight" in headers:
            width, attention = _size(headers, f"{path}0.in_layers.2.weight", 0), f"{path}1.norm.weight" in headers
            if not layers[-1]:
                widths.append(width)
                attends.append(attention)
            layers[-1] += 1
            depths[-1] = max(depths[-1], _count(headers, f"{path}1.transformer_blocks."))
        else:
            break
    attention = next((name for name in headers if name.startswith(UNET) and name.endswith("attn2.to_k.weight")), None)
    if len(widths) != len(layers) or attention is None:
        raise InputError(f"lacks the blocks of a video UNet ({UNET}input_blocks and their attention)")
    label = _size(headers, f"{UNET}label_emb.0.0.weight", 1)
    return UNetConfig(
        in_channels=_size(headers, f"{UNET}input_blocks.0.0.weight", 1),
        out_channels=_size(headers, f"{UNET}out.2.weight", 0),
        block_out_channels=tuple(widths),
        down_block_types=tuple("CrossAttnDownBlockSpatioTemporal" if a else "DownBlockSpatioTemporal" for a in attends),
        up_block_types=tuple("CrossAttnUpBlockSpatioTemporal" if a else "UpBlockSpatioTemporal" for a in reversed(attends)),
        layers_per_block=tuple(layers),
        transformer_layers_per_block=tuple(depths),
        num_attention_heads=tuple(max(1, width // UNET_HEAD) for width in widths),
        cross_attention_dim=(_size(headers, attention, 1),) * len(widths),
        addition_time_embed_dim=label // 3,
        projection_class_embeddings_input_dim=label,
        num_frames=num_frames,
    )


def _vae(headers: Headers, encoder: str) -> VAEConfig:
    levels = max(1, _count(headers, f"{encoder}encoder.down."))
    return VAEConfig(
        latent_channels=_size(headers, f"{DECODER}decoder.conv_in.weight", 1),
        block_out_channels=tuple(
            _size(headers, f"{encoder}encoder.down.{level}.block.0.conv1.weight", 0) for level in range(levels)
        ),
        layers_per_block=max(1, _count(headers, f"{encoder}encoder.down.0.block.")),
    )


def _vision(headers: Headers) -> CLIPConfig:
    if f"{VISION}vision_model.embeddings.class_embedding" in headers:  # transformers' names, as ComfyUI saves them
        model = f"{VISION}vision_model."
        embeddings, layers = f"{model}embeddings.", f"{model}encoder.layers."
        patches, positions = f"{embeddings}patch_embedding.weight", f"{embeddings}position_embedding.weight"
        hidden, projection = f"{layers}0.mlp.fc1.weight", _size(headers, f"{VISION}visual_projection.weight", 0)
    else:
        layers, patches, positions = f"{VISION}transformer.resblocks.", f"{VISION}conv1.weight", f"{VISION}positional_embedding"
        hidden, projection = f"{layers}0.mlp.c_fc.weight", _size(headers, f"{VISION}proj", 1)
    width, patch = _size(headers, patches, 0), _size(headers, patches, 3)
    return CLIPConfig(
        hidden_size=width,
        intermediate_size=_size(headers, hidden, 0),
        num_hidden_layers=_count(headers, layers),
        num_attention_heads=VISION_HEADS.get(width, max(1, width // 64)),
        image_size=math.isqrt(max(0, _size(headers, positions, 0) - 1)) * patch,
        patch_size=patch,
        projection_dim=projection,
    )


def _size(headers: Headers, name: str, axis: int) -> int:
    if name not in headers:
        raise InputError(f"lacks {name}")
    shape = headers[name].shape
    if axis >= len(shape):
        raise InputError(f"{name} has {len(shape)} axes, expected at least {axis + 1}")
    return shape[axis]


def _count(headers: Headers, prefix: str) -> int:
    """The number of modules in a list, from the largest index after the list's prefix."""
    found = (re.match(r"(\d{1,6})\.", name[len(prefix) :]) for name in headers if name.startswith(prefix))
    return max((int(match[1]) + 1 for match in found if match), default=0)
