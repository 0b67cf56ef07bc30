"""Levels of the UNet: down, middle, up. Module names and epsilons as in diffusers' unet_3d_blocks.py."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax import Array

from svdjax.models.resnet import Downsample, SpatioTemporalResBlock, Upsample
from svdjax.models.transformer import Conditions, Maps, TransformerSpatioTemporal


def _attentions(channels: int, count: int, attention: dict[str, int], path: str, kw: dict[str, Any]) -> nnx.List:
    paths = [f"{path}.attentions.{i}" for i in range(count)]
    return nnx.List([TransformerSpatioTemporal(channels, **attention, path=p, **kw) for p in paths])


class DownBlock(nnx.Module):
    """Resnets, each followed by a transformer if the level has attention; then a downsampler, except on the last level.

    Args of the constructor:
        layers: number of resnets.
        attention: `heads`, `layers` and `context_dim` of the transformers, or None for a level without attention.
        downsample: whether the block ends in a downsampler.
        path: the module's path in the UNet.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        temb_dim: int,
        attention: dict[str, int] | None,
        downsample: bool,
        path: str,
        **kw: Any,
    ):
        inputs = [in_channels] + [out_channels] * (layers - 1)
        eps = 1e-5 if attention is None else 1e-6
        self.resnets = nnx.List([SpatioTemporalResBlock(c, out_channels, temb_dim, eps, **kw) for c in inputs])
        self.attentions = None if attention is None else _attentions(out_channels, layers, attention, path, kw)
        self.downsamplers = nnx.List([Downsample(out_channels, **kw)]) if downsample else None

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, list[Array], Maps]:
        """(b, f, h, w, c) -> the level's output, its skip connections, its temporal maps."""
        skips: list[Array] = []
        maps: Maps = {}
        for i, resnet in enumerate(self.resnets):
            x = cond.run_block(resnet, x, cond.temb)
            if self.attentions is not None:
                x, layer_maps = cond.run_block(self.attentions[i], x, cond)
                maps |= layer_maps
            skips.append(x)
        if self.downsamplers is not None:
            x = cond.run_block(self.downsamplers[0], x)
            skips.append(x)
        return x, skips, maps


class MidBlock(nnx.Module):
    """Resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, channels: int, temb_dim: int, attention: dict[str, int], path: str, **kw: Any):
        self.resnets = nnx.List([SpatioTemporalResBlock(channels, channels, temb_dim, 1e-5, **kw) for _ in range(2)])
        self.attentions = _attentions(channels, 1, attention, path, kw)

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, Maps]:
        """(b, f, h, w, c) -> (b, f, h, w, c) and its temporal maps."""
        x = cond.run_block(self.resnets[0], x, cond.temb)
        x, maps = cond.run_block(self.attentions[0], x, cond)
        return cond.run_block(self.resnets[1], x, cond.temb), maps


class UpBlock(nnx.Module):
    """Resnets on the input and a skip connection, each followed by a transformer if the level has attention.

    Args of the constructor:
        skip_channels: widths of the skip connections in the order of their use, one per resnet.
        upsample: whether the block ends in an upsampler.
        others: see `DownBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        temb_dim: int,
        attention: dict[str, int] | None,
        upsample: bool,
        path: str,
        **kw: Any,
    ):
        inputs = [in_channels] + [out_channels] * (len(skip_channels) - 1)
        self.resnets = nnx.List(
            [
                SpatioTemporalResBlock(c + skip, out_channels, temb_dim, 1e-6, **kw)
                for c, skip in zip(inputs, skip_channels, strict=True)
            ]
        )
        self.attentions = None if attention is None else _attentions(out_channels, len(inputs), attention, path, kw)
        self.upsamplers = nnx.List([Upsample(out_channels, **kw)]) if upsample else None

    def __call__(self, x: Array, skips: list[Array], cond: Conditions, layers: slice = slice(None)) -> tuple[Array, Maps]:
        """(b, f, h, w, c) and skip connections, the last one first -> the level's output and its temporal maps.

        Args:
            x: the input.
            skips: skip connections of the layers that run.
            cond: see `Conditions`.
            layers: the resnets and transformers that run.
        """
        maps: Maps = {}
        for i, skip in zip(range(len(self.resnets))[layers], skips, strict=True):
            resnet = self.resnets[i]
            x = cond.run_block(resnet, x, cond.temb, skip)  # joined within the block: a gradient keeps no copy of the skip
            if self.attentions is not None:
                x, layer_maps = cond.run_block(self.attentions[i], x, cond)
                maps |= layer_maps
        return (x if self.upsamplers is None else cond.run_block(self.upsamplers[0], x)), maps
