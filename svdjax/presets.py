"""Configurations to train from scratch."""

from __future__ import annotations

from svdjax.config import CLIPConfig, EDMConfig, SVDConfig, UNetConfig, VAEConfig

# SVD's architecture for 8 frames of 64x64. Widths are multiples of the 32 groups of GroupNorm; the UNet's first is twice that,
# because a group of one channel would take the time embedding's sum out again.
TINY = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        transformer_layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=64,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        num_frames=8,
        sample_size=16,
    ),
    vae=VAEConfig(block_out_channels=(32, 64, 96), layers_per_block=1, scaling_factor=1.0),
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
