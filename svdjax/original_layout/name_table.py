"""Names and shapes of tensors in Stability's original layout, from those in diffusers layout: one table for both directions.

The original layout is that of `svd_xt.safetensors`, of Stability's generative-models and of ComfyUI: one file for all networks.
Every tensor in diffusers layout is stored there as it is, or as a third of a fused projection, or with its two axes swapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from svdjax.config import SVDConfig
from svdjax.errors import InputError

Shape = tuple[int, ...]
Pairs = tuple[tuple[str, str], ...]

UNET = "model.diffusion_model."
DECODER = "first_stage_model."
ENCODER = "conditioner.embedders.3.encoder."  # encodes keyframes; with `quant_conv`
PLAIN_ENCODER = "first_stage_model."  # encodes training clips; `quant_conv` is multiplied into its last convolution
VISION = "conditioner.embedders.0.open_clip.model.visual."

# Parts of files that no network of svdjax uses: OpenCLIP's text tower, the image decoder beside the encoder of keyframes.
UNUSED = (
    "conditioner.embedders.0.open_clip.model.attn_mask",
    "conditioner.embedders.0.open_clip.model.ln_final.",
    "conditioner.embedders.0.open_clip.model.logit_scale",
    "conditioner.embedders.0.open_clip.model.positional_embedding",
    "conditioner.embedders.0.open_clip.model.text_projection",
    "conditioner.embedders.0.open_clip.model.token_embedding.",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
)

# Modules by name: (diffusers', original), matched as whole segments.
RESNET: Pairs = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
UNET_TRANSFORMER: Pairs = (
    ("temporal_transformer_blocks", "time_stack"),
    ("time_pos_embed.linear_1", "time_pos_embed.0"),
    ("time_pos_embed.linear_2", "time_pos_embed.2"),
)
UNET_ENDS: Pairs = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
VAE_ENDS: Pairs = (("conv_norm_out", "norm_out"), ("time_conv_out", "conv_out.time_mix_conv"))
VAE_ATTENTION: Pairs = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
VISION_TOWER: Pairs = (
    ("vision_model.embeddings.class_embedding", "class_embedding"),
    ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("vision_model.embeddings.patch_embedding", "conv1"),
    ("vision_model.pre_layrnorm", "ln_pre"),
    ("vision_model.post_layernorm", "ln_post"),
    ("vision_model.encoder.layers", "transformer.resblocks"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn", "attn"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("visual_projection.weight", "proj"),
)
FUSED = ("q_proj", "k_proj", "v_proj")  # rows of in_proj_weight and in_proj_bias, in this order


@dataclass(frozen=True, kw_only=True)
class OriginalTensor:
    """Where the original layout stores a tensor of diffusers layout.

    Attributes:
        name: with the prefix of its network.
        shape: of the whole stored tensor.
        part: which third of its first axis the tensor is, if the projection is fused; otherwise None.
        transposed: whether its two axes are swapped.
        squeezed: whether the file has two more axes of length 1, of a convolution.
    """

    name: str
    shape: Shape
    part: int | None = None
    transposed: bool = False
    squeezed: bool = False


def original(network: str, name: str, shape: Shape, config: SVDConfig) -> OriginalTensor:
    """Where the original layout stores a tensor.

    Args:
        network: a key of `svdjax.models.svd.NETWORKS`.
        name: the tensor's name in diffusers layout.
        shape: its shape there.
        config: the model's configuration.
    """
    if network == "unet":
        return OriginalTensor(name=UNET + _unet(name, config), shape=shape)
    if network == "vae":
        # In the original layout the VAE's attention is made of 1x1 convolutions.
        conv = ".attentions." in name and len(shape) == 2
        prefix = DECODER if name.startswith("decoder.") else ENCODER
        return OriginalTensor(name=prefix + _vae(name, config), shape=(*shape, 1, 1) if conv else shape, squeezed=conv)
    renamed = VISION + _renamed(name, VISION_TOWER)
    if (module := renamed.split(".")[-2]) in FUSED:
        fused = renamed.replace(f"{module}.", "in_proj_")
        return OriginalTensor(name=fused, shape=(3 * shape[0], *shape[1:]), part=FUSED.index(module))
    if renamed == VISION + "proj":
        return OriginalTensor(name=renamed, shape=shape[::-1], transposed=True)
    return OriginalTensor(name=renamed, shape=shape)


def check_exists(config: SVDConfig) -> None:
    """Raise `InputError` if the original layout can't hold a UNet of this configuration."""
    layers = set(config.unet.layers_per_block)
    if len(layers) > 1:
        found = ", ".join(map(str, config.unet.layers_per_block))
        raise InputError(f"unet: layers_per_block is {found}, expected the same number for every level of the original layout")


def _unet(name: str, config: SVDConfig) -> str:
    layers = config.unet.layers_per_block[0]
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match:
        side, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":  # a block of its own, after those of its level
            return f"input_blocks.{1 + level * (layers + 1) + layers}.0.{rest.replace('conv', 'op', 1)}"
        if kind == "upsamplers":  # the last module of its level's last block
            attends = config.unet.up_block_types[level].startswith("CrossAttn")
            return f"output_blocks.{level * (layers + 1) + layers}.{1 + attends}.{rest}"
        first = 1 if side == "down" else 0  # the first input block is conv_in
        block = f"{'input' if side == 'down' else 'output'}_blocks.{first + level * (layers + 1) + place}"
        return f"{block}.{1 if kind == 'attentions' else 0}.{_inside(kind, rest)}"
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if match:
        kind, place = match[1], int(match[2])
        return f"middle_block.{2 * place + (kind == 'attentions')}.{_inside(kind, match[3])}"
    return _renamed(name, UNET_ENDS)


def _inside(kind: str, name: str) -> str:
    """The name of a tensor in a residual block or a transformer of the UNet."""
    if kind == "attentions":
        return _renamed(name, UNET_TRANSFORMER)
    half, _, rest = name.partition(".")
    if half == "time_mixer":
        return name
    return ("time_stack." if half == "temporal_res_block" else "") + _renamed(rest, RESNET)


def _vae(name: str, config: SVDConfig) -> str:
    levels = len(config.vae.block_out_channels)
    match = re.fullmatch(r"(en|de)coder\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match:
        level = int(match[3]) if match[2] == "down" else levels - 1 - int(match[3])  # both count from the highest resolution
        path = f"{match[1]}coder.{match[2]}.{level}."
        if match[4] == "resnets":
            return f"{path}block.{match[5]}.{_vae_resnet(match[6])}"
        return f"{path}{match[4].removesuffix('rs')}.{match[6]}"  # downsamplers -> downsample
    match = re.fullmatch(r"(en|de)coder\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if match:
        path, place = f"{match[1]}coder.mid.", int(match[3]) + 1
        if match[2] == "attentions":
            return f"{path}attn_{place}.{_renamed(match[4], VAE_ATTENTION)}"
        return f"{path}block_{place}.{_vae_resnet(match[4])}"
    return _renamed(name, VAE_ENDS)


def _vae_resnet(name: str) -> str:
    """The name of a tensor in a residual block of the VAE. Only its temporal half has the names of the UNet's."""
    half, _, rest = name.partition(".")
    if half == "temporal_res_block":
        return f"time_stack.{_renamed(rest, RESNET)}"
    return (rest if half in ("spatial_res_block", "time_mixer") else name).replace("conv_shortcut", "nin_shortcut")


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in pairs:
        name = re.sub(rf"(?<![^.]){re.escape(theirs)}(?![^.])", ours, name)
    return name
