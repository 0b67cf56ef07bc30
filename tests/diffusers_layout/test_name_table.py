"""The name table: names compared with PyTorch's, layouts by results, and messages about tensors that don't fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
import svd_folders
import torch
from jax import numpy as jnp

from svdjax.config import SVDConfig
from svdjax.diffusers_layout import name_table
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.errors import InputError
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, leaves

# Configurations with shapes that fit no other order of axes: two and four levels, one and two layers per block, patch 14, 32.
VARIANTS = [
    ("unet", {}),
    ("unet", {"layers_per_block": 2, "transformer_layers_per_block": 2, "num_attention_heads": 4}),
    (
        "unet",
        {
            "block_out_channels": (32, 64, 96, 96),
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
            "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
            "layers_per_block": (1, 2, 1, 2),
            "num_attention_heads": (1, 2, 3, 3),
        },
    ),
    ("vae", {}),
    ("vae", {"block_out_channels": (32, 64, 64, 96), "down_block_types": ("DownEncoderBlock2D",) * 4, "layers_per_block": 2}),
    ("image_encoder", {}),
    ("image_encoder", {"num_hidden_layers": 3, "patch_size": 14}),
]


@dataclass
class Header:
    """A stand-in for a tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


def table_of(component: str, config: Any) -> dict[str, name_table.TensorRow]:
    model = abstract(NETWORKS[component], config, np.float32)
    return name_table.table({name: leaf.shape for name, leaf in leaves(model).items()})


@pytest.mark.parametrize(("component", "settings"), VARIANTS)
def test_every_pytorch_tensor_has_one_row(component, settings):
    with torch.device("meta"):
        module = svd_folders.network(component, **settings)
    config = json.loads((module.config if component == "image_encoder" else module).to_json_string())
    rows = table_of(component, from_pytorch(component, config))
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert {row.torch_name: row.torch_shape for row in rows.values()} == expected
    assert len(rows) == len(expected)


def test_full_size_counts():
    # Parameters of SVD-XT, counted in PyTorch.
    tables = {name: name_table.network_table(name, SVDConfig()) for name in svd_folders.COMPONENTS}
    counts = {name: sum(row.size for row in rows.values()) for name, rows in tables.items()}
    assert counts == {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800}


NAMES = {
    "conv_in.kernel": ((3, 3, 8, 32), "conv_in.weight", (32, 8, 3, 3)),
    "conv_out.bias": ((4,), "conv_out.bias", (4,)),
    "down_blocks.0.attentions.0.proj_in.kernel": ((32, 16), "down_blocks.0.attentions.0.proj_in.weight", (16, 32)),
    "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_out.kernel": (
        (32, 16),
        "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_out.0.weight",
        (16, 32),
    ),
    "mid_block.attentions.0.transformer_blocks.0.ff.proj_in.bias": (
        (256,),
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias",
        (256,),
    ),
    "mid_block.attentions.0.temporal_transformer_blocks.0.ff_in.proj_out.kernel": (
        (128, 32),
        "mid_block.attentions.0.temporal_transformer_blocks.0.ff_in.net.2.weight",
        (32, 128),
    ),
    "up_blocks.1.resnets.2.temporal_res_block.conv1.kernel": (
        (3, 16, 32),
        "up_blocks.1.resnets.2.temporal_res_block.conv1.weight",
        (32, 16, 3, 1, 1),
    ),
    "up_blocks.1.resnets.2.temporal_res_block.norm1.scale": (
        (16,),
        "up_blocks.1.resnets.2.temporal_res_block.norm1.weight",
        (16,),
    ),
    "down_blocks.0.resnets.0.time_mixer.mix_factor": ((1,), "down_blocks.0.resnets.0.time_mixer.mix_factor", (1,)),
    "vision_model.embeddings.class_embedding": ((32,), "vision_model.embeddings.class_embedding", (32,)),
    "vision_model.embeddings.position_embedding.embedding": (
        (50, 32),
        "vision_model.embeddings.position_embedding.weight",
        (50, 32),
    ),
}


@pytest.mark.parametrize("leaf", NAMES)
def test_names(leaf):
    shape, torch_name, torch_shape = NAMES[leaf]
    row = name_table.torch_row(leaf, shape)
    assert (row.torch_name, row.torch_shape) == (torch_name, torch_shape)


def test_a_tensor_without_an_entry_is_an_error():
    with pytest.raises(KeyError, match="thing"):
        name_table.torch_row("conv_in.thing", (3,))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (name_table.VECTOR, (5,)),
        (name_table.TABLE, (5, 4)),
        (name_table.LINEAR, (5, 4)),
        (name_table.CONV, (5, 4, 3, 2)),
        (name_table.TEMPORAL_CONV, (5, 4, 3, 1, 1)),
    ],
)
def test_layouts_invert(layout, shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    ours = layout.to_flax(x)
    assert layout.torch_shape(ours.shape) == shape
    np.testing.assert_array_equal(layout.to_torch(ours), x)


def test_layouts_give_pytorchs_results():
    # Small integers: every sum is exact, so the order of summation doesn't matter.
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.integers(-4, 5, shape).astype(np.float32)

    x, weight = draw(7, 4), draw(5, 4)
    np.testing.assert_array_equal(
        x @ name_table.LINEAR.to_flax(weight), torch.nn.functional.linear(torch.tensor(x), torch.tensor(weight))
    )
    x, weight = draw(1, 4, 6, 8), draw(5, 4, 3, 2)
    ours = jax.lax.conv_general_dilated(
        jnp.moveaxis(x, 1, -1), name_table.CONV.to_flax(weight), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    theirs = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(weight))
    np.testing.assert_array_equal(np.moveaxis(np.asarray(ours), -1, 1), theirs)
    x, weight = draw(1, 4, 6, 2, 2), draw(5, 4, 3, 1, 1)
    taps = name_table.TEMPORAL_CONV.to_flax(weight)
    last = np.moveaxis(x, 1, -1)  # (1, f, h, w, c)
    ours = np.sum([last[:, t : t + 4] @ taps[t] for t in range(3)], 0)
    theirs = torch.nn.functional.conv3d(torch.tensor(x), torch.tensor(weight))
    np.testing.assert_array_equal(np.moveaxis(ours, -1, 1), theirs)


ROWS = name_table.table({"a.kernel": (4, 5), "b.bias": (3,)})
GOOD = {"a.weight": Header("F32", (5, 4)), "b.bias": Header("BF16", (3,))}


def test_fitting_and_ignored_tensors_are_accepted():
    name_table.check_tensors("unet", ROWS, GOOD, "file")
    ids = {"vision_model.embeddings.position_ids": Header("I64", (1, 50))}
    name_table.check_tensors("image_encoder", ROWS, GOOD | ids, "file")
    with pytest.raises(InputError, match="position_ids"):
        name_table.check_tensors("unet", ROWS, GOOD | ids, "file")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"a.weight": GOOD["a.weight"]}, "file: lacks b.bias: "),
        ({"a.weight": GOOD["a.weight"], "c": GOOD["b.bias"]}, "file: lacks b.bias and has unexpected c: "),
        (GOOD | {f"x{i}": GOOD["b.bias"] for i in range(1200)}, r"unexpected 1,200 tensors \(x0, x1, x2, ...\)"),
        (GOOD | {"a.weight": Header("F32", (4, 5))}, "file: a.weight is 4x5, expected 5x4"),
        (GOOD | {"a.weight": Header("F32", (5, 4, 1))}, "file: a.weight is 5x4x1, expected 5x4"),
        (GOOD | {"b.bias": Header("I32", (3,))}, "file: b.bias is I32, expected one of F64, F32, F16, BF16"),
        (GOOD | {"b.bias": Header("F8_E4M3", (3,))}, "F8_E4M3"),
    ],
)
def test_messages_name_tensors_that_do_not_fit(headers, message):
    with pytest.raises(InputError, match=message):
        name_table.check_tensors("unet", ROWS, headers, "file")
