"""Configurations for training from scratch."""

from __future__ import annotations

import dataclasses

from svdjax.config import CLIPConfig, EDMConfig, SVDConfig, UNetConfig, VAEConfig

# SVD's architecture for 8 frames of 64x64 pixels. Every level has at least 64 channels: with 32, each of GroupNorm's 32 groups
# would be one channel, and normalization would remove what is constant over a frame: colour in the VAE, the time embedding in
# the UNet.
# A latent is 4 pixels wide, not 8 as in SVD: with 8, a moving object would be only three latents long, and the model could not
# learn latents that move with it.
TINY = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(64, 64, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        in_channels=12,
        out_channels=6,
        layers_per_block=(1, 1, 1),
        transformer_layers_per_block=(1, 1, 1),
        num_attention_heads=(4, 2, 2),
        cross_attention_dim=(64, 64, 64),
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

# TINY without attention at the UNet's first level, which has the full latent resolution: less than half of the time per step.
# A UNet is first trained like this, then grown to TINY. The backward direction needs TINY: it trains attention tensors only.
LIGHT = dataclasses.replace(
    TINY,
    unet=dataclasses.replace(
        TINY.unet,
        down_block_types=("DownBlockSpatioTemporal", *TINY.unet.down_block_types[1:]),
        up_block_types=(*TINY.unet.up_block_types[:-1], "UpBlockSpatioTemporal"),
    ),
)

PRESETS = {"tiny": TINY, "tiny-light": LIGHT, "svd-xt": SVDConfig()}
