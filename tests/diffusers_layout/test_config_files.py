"""JSON files of diffusers folders: what is written is read back, and diffusers builds networks from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel  # pyright: ignore[reportPrivateImportUsage]

from svdjax.config import UNetConfig
from svdjax.diffusers_layout.config_files import from_pytorch, unet_json

SETTINGS = [
    {},
    {"layers_per_block": (1, 2, 1, 2), "cross_attention_dim": (8, 16, 8, 8), "transformer_layers_per_block": (1, 1, 2, 1)},
    {"num_frames": 14, "sample_size": (40, 72), "num_attention_heads": (1, 2, 4, 4)},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_configuration_is_read_back(settings):
    config = UNetConfig(**settings)
    data = json.loads(json.dumps(unet_json(config)))
    assert from_pytorch("unet", data) == config
    with torch.device("meta"):
        module: Any = UNetSpatioTemporalConditionModel.from_config(data)
    assert module.config.num_frames == config.num_frames
    if not settings:  # the same as in SVD's own file
        assert (data["layers_per_block"], data["cross_attention_dim"], data["transformer_layers_per_block"]) == (2, 1024, 1)
        assert data["num_attention_heads"] == [5, 10, 20, 20]
