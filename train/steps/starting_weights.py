"""With what a stage of training from scratch begins: random weights, a checkpoint's, or a checkpoint's with its UNet grown.

A grown UNet has the smaller one's tensors, by name, and more attention, which adds nothing at first as it ends in layers of
zeros (`train.steps.zero_branches`), as nets are grown without changing what they compute (Net2Net, Chen et al. 2016,
section 2). A UNet whose first level, the costliest, gets its attention late is trained in less time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.orbax_trees import Shardings, restore_tree
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.models import initialize
from svdjax.models.svd import NETWORKS, leaves
from svdjax.presets import PRESETS
from train.options.base import Options
from train.steps import zero_branches


def config_of(given: Options, info: checkpoint.Info | None) -> SVDConfig:
    """What to begin with: a preset, a checkpoint, or a checkpoint whose UNet is grown to a preset's."""
    if info is None:
        return PRESETS[given.preset or "tiny"]
    if given.preset is None:
        return info.config
    return grown(info.config, given.preset, given.model)


def grown(config: SVDConfig, preset: str, model: Path) -> SVDConfig:
    """The configuration of a checkpoint with a preset's UNet.

    Args:
        config: the checkpoint's; its frames and their size stay.
        preset: a name in `PRESETS`.
        model: where the checkpoint is, for messages.

    Raises:
        InputError: the preset's UNet has less attention than the checkpoint's, or differs from it in more than attention.
    """
    before = config.unet
    unet = dataclasses.replace(PRESETS[preset].unet, num_frames=before.num_frames, sample_size=before.sample_size)
    # Levels or layers that are new would change what skip connections hand on: attention alone can begin as nothing.
    grows = ("down_block_types", "up_block_types", "num_attention_heads")
    for name in (field.name for field in dataclasses.fields(unet) if field.name not in grows):
        found, wanted = getattr(before, name), getattr(unet, name)
        if found != wanted:
            raise InputError(
                f"{model}: {name} of its UNet is {found}, of --preset {preset} {wanted}: it can be grown in attention alone"
            )
    kinds = [(*shapes.down_block_types, *shapes.up_block_types) for shapes in (before, unet)]
    for found, wanted in zip(*kinds, strict=True):
        if wanted not in (found, f"CrossAttn{found}"):
            raise InputError(f"{model}: its UNet has a {found}, --preset {preset} a {wanted} there: it can't be grown to that")
    last = len(unet.down_block_types) - 1  # whose heads are the mid block's too
    for level, blocks in enumerate(zip(before.down_block_types, reversed(before.up_block_types), strict=True)):
        heads, wanted = before.num_attention_heads[level], unet.num_attention_heads[level]
        if (level == last or any(kind.startswith("CrossAttn") for kind in blocks)) and heads != wanted:
            raise InputError(
                f"{model}: level {level} of its UNet has {heads} heads, that of --preset {preset} {wanted}: "
                "it can't be grown to that"
            )
    return dataclasses.replace(config, unet=unet)


def tensors_of(
    given: Options, config: SVDConfig, info: checkpoint.Info | None, where: Shardings, name: str
) -> dict[str, Array]:
    """A network's tensors to begin with, float32 by dotted name: the checkpoint's, the others random ones of the seed."""
    cls, shapes = NETWORKS[name], getattr(config, name)
    found: dict[str, Array] = {}
    if info is not None:
        expected = leaves(initialize.abstract(cls, getattr(info.config, name), jnp.float32))
        found = restore_tree(given.model / name, expected, lambda leaf, shape: where(f"{name}.{leaf}", shape))
        if given.preset is None or name != "unet":
            return found
    seed = (given.seed * len(NETWORKS) + list(NETWORKS).index(name)) % 2**32

    def make() -> dict[str, Array]:
        made = zero_branches.begin(name, leaves(initialize.random(cls, shapes, jnp.float32, seed=seed)))
        return {leaf: value for leaf, value in made.items() if leaf not in found}

    placed = {leaf: where(f"{name}.{leaf}", value.shape) for leaf, value in jax.eval_shape(make).items()}
    return {**found, **jax.jit(make, out_shardings=placed)()}
