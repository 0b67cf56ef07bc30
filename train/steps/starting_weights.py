"""Starting weights of training from scratch: random, a checkpoint's, or a checkpoint's with more attention in the UNet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.orbax_trees import Shardings, restore_tree
from svdjax.config import SVDConfig, UNetConfig
from svdjax.errors import InputError
from svdjax.models import initialize
from svdjax.models.svd import NETWORKS, leaves
from svdjax.presets import PRESETS
from train.steps.zero_branches import zero_branches

# Fields that may differ from the checkpoint's. New attention starts with zero output; a new level or layer would change the
# skip connections.
_GROWS = ("down_block_types", "up_block_types", "num_attention_heads")


@dataclass(frozen=True)
class StartingModel:
    """The checkpoint that a run starts from, if any, and the preset of new networks.

    Attributes:
        path: folder of the checkpoint, or None for a new model.
        info: contents of its `config.json`, or None for a new model.
        preset: a name in `PRESETS`; with a checkpoint, the shapes that its UNet grows to.
    """

    path: Path | None
    info: checkpoint.Info | None
    preset: str | None

    @classmethod
    def read(cls, path: Path | None, preset: str | None) -> StartingModel:
        """Read the checkpoint's `config.json`.

        Raises:
            InputError: not a checkpoint.
        """
        return cls(path, None if path is None else checkpoint.read_info(path), preset)

    def config(self) -> SVDConfig:
        """The configuration of the model to train.

        Raises:
            InputError: the checkpoint's UNet can't grow to the preset's.
        """
        if self.info is None:
            return PRESETS[self.preset or "tiny"]
        return self.info.config if self.preset is None else grown(self.info.config, self.preset, self.path)

    def tensors(self, network: str, config: SVDConfig, seed: int, shardings: Shardings) -> dict[str, Array]:
        """The starting tensors of a network, float32 by dotted name: the checkpoint's, and random ones for the others.

        Args:
            network: a key of `NETWORKS`.
            config: configuration of the model to train.
            seed: seed of the random tensors.
            shardings: maps the name of a tensor, such as `unet.conv_in.kernel`, and its shape to its sharding.
        """
        cls = NETWORKS[network]
        stored: dict[str, Array] = {}
        if self.info is not None and self.path is not None:
            expected = leaves(initialize.abstract(cls, getattr(self.info.config, network), jnp.float32))
            stored = restore_tree(self.path / network, expected, lambda name, shape: shardings(f"{network}.{name}", shape))
            if self.preset is None or network != "unet":
                return stored
        seed_of_network = (seed * len(NETWORKS) + list(NETWORKS).index(network)) % 2**32

        def make() -> dict[str, Array]:
            random = leaves(initialize.random(cls, getattr(config, network), jnp.float32, seed=seed_of_network))
            return {name: value for name, value in zero_branches(network, random).items() if name not in stored}

        placed = {name: shardings(f"{network}.{name}", x.shape) for name, x in jax.eval_shape(make).items()}
        return {**stored, **jax.jit(make, out_shardings=placed)()}


def grown(config: SVDConfig, preset: str, model: Path | None) -> SVDConfig:
    """The configuration of a checkpoint with the UNet of a preset, which may have more attention.

    Args:
        config: the checkpoint's configuration; its number and size of frames are kept.
        preset: a name in `PRESETS`.
        model: folder of the checkpoint, for messages.

    Raises:
        InputError: the preset's UNet has less attention than the checkpoint's, or differs from it in more than attention.
    """
    before = config.unet
    unet = dataclasses.replace(PRESETS[preset].unet, num_frames=before.num_frames, sample_size=before.sample_size)
    for name in (field.name for field in dataclasses.fields(unet) if field.name not in _GROWS):
        if getattr(before, name) != getattr(unet, name):
            raise InputError(
                f"{model}: {name} of its UNet is {getattr(before, name)}, of --preset {preset} {getattr(unet, name)}, "
                "expected the same: only attention can be added"
            )
    blocks = zip(
        (*before.down_block_types, *before.up_block_types), (*unet.down_block_types, *unet.up_block_types), strict=True
    )
    for found, wanted in blocks:
        if wanted not in (found, f"CrossAttn{found}"):
            raise InputError(f"{model}: its UNet has {found}, --preset {preset} has {wanted}: only attention can be added")
    for level, (heads, wanted) in enumerate(zip(before.num_attention_heads, unet.num_attention_heads, strict=True)):
        if _has_attention(before, level) and heads != wanted:
            raise InputError(
                f"{model}: level {level} of its UNet has {heads} heads, that of --preset {preset} {wanted}, "
                "expected the same: only attention can be added"
            )
    return dataclasses.replace(config, unet=unet)


def _has_attention(unet: UNetConfig, level: int) -> bool:
    """Whether a level has attention. The mid block always has it, with the heads of the last level."""
    last = len(unet.down_block_types) - 1
    blocks = (unet.down_block_types[level], unet.up_block_types[last - level])
    return level == last or any(kind.startswith("CrossAttn") for kind in blocks)
