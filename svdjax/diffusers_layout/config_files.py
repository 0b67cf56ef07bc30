"""The JSON files of a diffusers folder, from our configurations: the inverse of `svdjax.config.from_pytorch`."""

from __future__ import annotations

import dataclasses
from typing import Any

from svdjax.config import SVDConfig, UNetConfig

# diffusers takes one number for all levels or a list; SVD's own files have one for these.
ONE_FOR_ALL = ("layers_per_block", "transformer_layers_per_block", "cross_attention_dim")


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The `config.json` that diffusers' `UNetSpatioTemporalConditionModel` is built from."""
    data = dataclasses.asdict(config)
    for name in ONE_FOR_ALL:
        if len(set(data[name])) == 1:
            data[name] = data[name][0]
    return {"_class_name": "UNetSpatioTemporalConditionModel", **data}


def json_files(config: SVDConfig) -> dict[str, dict[str, Any]]:
    """Every JSON file of a whole model but the UNet's, by path."""
    vae, encoder = dataclasses.asdict(config.vae), dataclasses.asdict(config.image_encoder)
    size = encoder["image_size"]
    statistics = {name: encoder.pop(name) for name in ("image_mean", "image_std")}
    return {
        "vae/config.json": {
            "_class_name": "AutoencoderKLTemporalDecoder",
            **vae,
            "down_block_types": ["DownEncoderBlock2D"] * len(config.vae.block_out_channels),
            "sample_size": config.default_size[0],
        },
        "image_encoder/config.json": {
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
            **encoder,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": "v_prediction",
            "use_karras_sigmas": True,
            "timestep_type": "continuous",
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "sigma_min": config.scheduler.sigma_min,
            "sigma_max": config.scheduler.sigma_max,
        },
        "feature_extractor/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            **statistics,
        },
        "model_index.json": {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
        },
    }
