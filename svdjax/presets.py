"""Configurations to train from scratch."""

from __future__ import annotations

import dataclasses

from svdjax.config import CLIPConfig, EDMConfig, SVDConfig, UNetConfig, VAEConfig

# SVD's architecture for 8 frames of 64x64. No level is narrower than 64 channels: GroupNorm has 32 groups, and a group of one
# channel takes out what a frame's picture has everywhere alike, its colour in the VAE and the time embedding in the UNet.
# Latents are a quarter of a frame, where SVD's are an eighth: the thing that moves would be three latents long, and its latents
# could not be trained to move as it does.
TINY = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(64, 64, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        in_channels=12,
        out_channels=6,
        layers_per_block=1,
        transformer_layers_per_block=1,
        num_attention_heads=(4, 2, 2),
        cross_attention_dim=64,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        num_frames=8,
        sample_size=16,
    ),
    vae=VAEConfig(latent_channels=6, block_out_channels=(64, 64, 96), layers_per_block=1, scaling_factor=1.0),
    image_encoder=CLIPConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        projection_dim=64,
    ),
    scheduler=EDMConfig(sigma_max=80.0),
)

# The same without attention at the UNet's first level, whose latents are of full size: less than half of the time. The UNet is
# trained like this first, and then grown to TINY's, which the backward direction needs: it is trained in attention alone.
LIGHT = dataclasses.replace(
    TINY,
    unet=dataclasses.replace(
        TINY.unet,
        down_block_types=("DownBlockSpatioTemporal", *TINY.unet.down_block_types[1:]),
        up_block_types=(*TINY.unet.up_block_types[:-1], "UpBlockSpatioTemporal"),
    ),
)

PRESETS = {"tiny": TINY, "tiny-light": LIGHT, "svd-xt": SVDConfig()}
