"""The JSON files of a diffusers folder, read into our configurations and written from them.

The tables hold what PyTorch's files need besides the fields of `svdjax.config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from svdjax.config import COMPONENTS, SVDConfig, UNetConfig, require
from svdjax.errors import InputError

# For each file, the key of the model class, and the only class that is implemented.
CLASSES = {
    "unet": ("_class_name", "UNetSpatioTemporalConditionModel"),
    "vae": ("_class_name", "AutoencoderKLTemporalDecoder"),
    "image_encoder": ("model_type", "clip_vision_model"),
    "scheduler": ("_class_name", "EulerDiscreteScheduler"),
}
# Settings that change the computation, with the only value that is implemented; in a list, every entry must have it.
IMPLEMENTED = {
    "vae": {"down_block_types": "DownEncoderBlock2D"},
    "scheduler": {"prediction_type": "v_prediction", "use_karras_sigmas": True, "timestep_type": "continuous"},
}
# Defaults of the PyTorch classes that differ from SVD's, for files that omit a setting.
PYTORCH_DEFAULTS: dict[str, dict[str, Any]] = {
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
# Fields of the UNet that SVD's own file gives once for all levels; diffusers takes one number or a list.
ONE_FOR_ALL_LEVELS = ("layers_per_block", "transformer_layers_per_block", "cross_attention_dim")


def from_pytorch(component: str, data: Mapping[str, Any]) -> Any:
    """Our configuration of one component from its JSON in a diffusers folder.

    Args:
        component: `unet`, `vae`, `image_encoder` or `scheduler`.
        data: the parsed `config.json` (`scheduler_config.json`); keys that don't affect inference are ignored.

    Returns:
        `UNetConfig`, `VAEConfig`, `CLIPConfig` or `EDMConfig`.

    Raises:
        InputError: another model class, or a setting that isn't implemented; the message names it.
    """
    key, class_name = CLASSES[component]
    require(data.get(key) == class_name, f"{component}: {key} is {data.get(key)!r}, expected {class_name!r}")
    for name, implemented in IMPLEMENTED.get(component, {}).items():
        if name in data:
            setting = data[name]
            for value in setting if isinstance(setting, (list, tuple)) else [setting]:
                require(value == implemented, f"{component}: {name} is {value!r}, expected {implemented!r}")
    cls = COMPONENTS[component]
    fields = {field.name for field in dataclasses.fields(cls)}
    settings = {name: value for name, value in data.items() if name in fields and value is not None}
    try:
        return cls(**(PYTORCH_DEFAULTS.get(component, {}) | settings))
    except InputError as e:
        raise InputError(f"{component}: {e}") from None
    except TypeError as e:  # such as a string in place of a number
        raise InputError(f"{component}: a setting has the wrong type ({e})") from None


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The `config.json` from which diffusers builds a UNet."""
    data = dataclasses.asdict(config)
    for name in ONE_FOR_ALL_LEVELS:
        if len(set(data[name])) == 1:
            data[name] = data[name][0]
    return {**_class_of("unet"), **data}


def other_json(config: SVDConfig) -> dict[str, dict[str, Any]]:
    """All JSON files of a model except the UNet's, by path in its folder."""
    vae, encoder = dataclasses.asdict(config.vae), dataclasses.asdict(config.image_encoder)
    pixel_statistics = {name: encoder.pop(name) for name in ("image_mean", "image_std")}
    image_size = encoder["image_size"]
    return {
        "vae/config.json": {
            **_class_of("vae"),
            **vae,
            "down_block_types": [IMPLEMENTED["vae"]["down_block_types"]] * len(config.vae.block_out_channels),
            "sample_size": config.default_size[0],
        },
        "image_encoder/config.json": {
            "architectures": ["CLIPVisionModelWithProjection"],
            **_class_of("image_encoder"),
            **encoder,
        },
        "scheduler/scheduler_config.json": {
            **_class_of("scheduler"),
            **IMPLEMENTED["scheduler"],
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "sigma_min": config.scheduler.sigma_min,
            "sigma_max": config.scheduler.sigma_max,
        },
        "feature_extractor/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": image_size},
            "crop_size": {"height": image_size, "width": image_size},
            **pixel_statistics,
        },
        "model_index.json": {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", CLASSES["scheduler"][1]],
            "unet": ["diffusers", CLASSES["unet"][1]],
            "vae": ["diffusers", CLASSES["vae"][1]],
        },
    }


def _class_of(component: str) -> dict[str, str]:
    key, class_name = CLASSES[component]
    return {key: class_name}
