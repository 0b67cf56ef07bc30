"""The JSON files of a diffusers folder: our configurations from them, and they from our configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from svdjax.config import COMPONENTS, SVDConfig, UNetConfig, require
from svdjax.errors import InputError

# What each PyTorch class must be, and settings that change the arithmetic: only the value that SVD uses is implemented.
_CLASSES = {
    "unet": ("_class_name", "UNetSpatioTemporalConditionModel"),
    "vae": ("_class_name", "AutoencoderKLTemporalDecoder"),
    "image_encoder": ("model_type", "clip_vision_model"),
    "scheduler": ("_class_name", "EulerDiscreteScheduler"),
}
# Defaults of the PyTorch classes that differ from SVD's, for files that leave a setting out.
_PYTORCH_DEFAULTS: dict[str, dict[str, Any]] = {
    "vae": {"block_out_channels": (64,), "layers_per_block": 1},
    "image_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 32,
        "projection_dim": 512,
        "hidden_act": "quick_gelu",
    },
}
_IMPLEMENTED = {
    "vae": {"down_block_types": "DownEncoderBlock2D"},
    "scheduler": {"prediction_type": "v_prediction", "use_karras_sigmas": True, "timestep_type": "continuous"},
}


def from_pytorch(component: str, data: Mapping[str, Any]) -> Any:
    """The configuration of one component from its JSON in a diffusers folder.

    Args:
        component: `unet`, `vae`, `image_encoder` or `scheduler`.
        data: the parsed `config.json` (`scheduler_config.json`); keys that don't affect inference are ignored.

    Raises:
        InputError: another class of model, or a setting that isn't implemented; the message names it.
    """
    key, expected = _CLASSES[component]
    found = data.get(key)
    require(found == expected, f"{component}: {key} is {found!r}, expected {expected!r}")
    for name, value in _IMPLEMENTED.get(component, {}).items():
        if name in data:
            given = data[name]
            for one in given if isinstance(given, (list, tuple)) else [given]:
                require(one == value, f"{component}: {name} is {one!r}, expected {value!r}")
    cls = COMPONENTS[component]
    names = {f.name for f in dataclasses.fields(cls)}
    try:
        given = {k: v for k, v in data.items() if k in names and v is not None}
        return cls(**(_PYTORCH_DEFAULTS.get(component, {}) | given))
    except InputError as e:
        raise InputError(f"{component}: {e}") from None
    except TypeError as e:  # a string where a number belongs, and the like
        raise InputError(f"{component}: a setting has the wrong type ({e})") from None


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
