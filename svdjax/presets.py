"""Configurations to train from scratch."""

from __future__ import annotations

from svdjax.config import CLIPConfig, EDMConfig, SVDConfig, UNetConfig, VAEConfig

# SVD's architecture for 8 frames of 64x64. No level is narrower than 64 channels: GroupNorm has 32 groups, and a group of one
# channel takes out what a frame's picture has everywhere alike, its colour in the VAE and the time embedding in the UNet.
# Eight latent channels: the thing that moves is only three latents long.
TINY = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        in_channels=16,
        out_channels=8,
        layers_per_block=1,
        transformer_layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=64,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        num_frames=8,
        sample_size=8,
    ),
    vae=VAEConfig(latent_channels=8, block_out_channels=(64, 64, 64, 96), layers_per_block=1, scaling_factor=1.0),
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

PRESETS = {"tiny": TINY, "svd-xt": SVDConfig()}
