"""Values of configurations that no model can have: one line, before a network is built from them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from svdjax.config import CLIPConfig, EDMConfig, UNetConfig, VAEConfig
from svdjax.diffusers_layout.config_files import CLASSES, from_pytorch
from svdjax.errors import InputError

WHOLE = {
    "unet": ("in_channels", "num_frames", "sample_size", "layers_per_block", "num_attention_heads", "addition_time_embed_dim"),
    "vae": ("latent_channels", "layers_per_block"),
    "image_encoder": ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"),
}
REAL = {"vae": ("scaling_factor",), "image_encoder": ("layer_norm_eps",), "scheduler": ("sigma_min", "sigma_max")}
WRONG_WHOLE = (0, -1, True, 2.5, "8", 10**9, 10**30, math.nan, math.inf, {}, {"a": 1})
WRONG_REAL = (0, -1.0, True, "1", math.nan, math.inf, 10**400, [1.0], {})
CASES = [
    *((part, name, value) for part, names in WHOLE.items() for name in names for value in WRONG_WHOLE),
    *((part, name, value) for part, names in REAL.items() for name in names for value in WRONG_REAL),
    ("vae", "force_upcast", "false"),
    ("vae", "force_upcast", 1),
    ("vae", "block_out_channels", "128"),
    ("vae", "block_out_channels", []),
    ("vae", "block_out_channels", [32] * 40),
    ("unet", "block_out_channels", 64),
    ("unet", "block_out_channels", [32 * 10**9]),
    ("unet", "block_out_channels", [math.nan]),
    ("unet", "sample_size", [1, 2, 3]),
    ("unet", "sample_size", [16, "a"]),
    ("unet", "down_block_types", [["a"]]),
    ("unet", "layers_per_block", [1, 2]),
    ("image_encoder", "image_mean", 0.5),
    ("image_encoder", "image_mean", [0.5, 0.5, math.nan]),
    ("image_encoder", "image_std", [0.5, 0.5, 0]),
    ("image_encoder", "hidden_act", ["gelu"]),
    ("image_encoder", "patch_size", 300),
]


@pytest.mark.parametrize(("component", "name", "value"), CASES)
def test_refused(component, name, value):
    key, class_name = CLASSES[component]
    with pytest.raises(InputError, match=f"^{component}: .*{name}") as caught:
        from_pytorch(component, {key: class_name, name: value})
    assert len(str(caught.value)) < 400


def test_the_limits_hold_the_configurations_of_svd():
    for config in (UNetConfig(), VAEConfig(), CLIPConfig(), EDMConfig()):
        data = json.loads(json.dumps(vars(config)))
        assert type(config)(**data) == config


@pytest.mark.parametrize("size", [96, [72, 128], 1])
def test_sample_sizes(size: Any):
    assert UNetConfig(sample_size=size).sample_size == (tuple(size) if isinstance(size, list) else size)
