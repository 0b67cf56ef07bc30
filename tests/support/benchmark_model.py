"""A tiny model for the tests of the benchmark, and the names of the values in every measurement."""

from __future__ import annotations

from pathlib import Path

from svdjax.checkpoints import checkpoint
from svdjax.config import CLIPConfig, SVDConfig, UNetConfig, VAEConfig

TINY = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",),
        up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        layers_per_block=(1,),
        transformer_layers_per_block=(1,),
        num_attention_heads=(2,),
        cross_attention_dim=(16,),
        num_frames=3,
        sample_size=(8, 12),
    ),
    vae=VAEConfig(block_out_channels=(32, 32), layers_per_block=1),
    image_encoder=CLIPConfig(projection_dim=16),
)
PLANNED = ("flops", "scratch_bytes", "argument_bytes", "trace_seconds", "compile_seconds")
MEASURED = ("seconds", "seconds_min", "seconds_max", "flops_per_second", "peak_bytes")


def write(folder: Path) -> Path:
    """Write only the configuration of a checkpoint with these shapes; the benchmark reads nothing else."""
    folder.mkdir()
    checkpoint.write_info(folder, checkpoint.Info(TINY, "float32"))
    return folder
