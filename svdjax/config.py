"""Configurations of the models, read from the JSON files of a diffusers folder.

Field names are those of the PyTorch configurations (diffusers' `UNetSpatioTemporalConditionModel`,
`AutoencoderKLTemporalDecoder`, `EulerDiscreteScheduler`; transformers' `CLIPVisionConfig`); defaults are SVD-XT's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.config_checks import as_tuple, check_fields, check_widths, per_level, require

_BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
}
_PER_LEVEL = (
    *_BLOCK_TYPES,
    "layers_per_block",
    "transformer_layers_per_block",
    "num_attention_heads",
    "cross_attention_dim",
)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The spatio-temporal UNet.

    Tuples have one entry per level, highest resolution first. A single value, as the PyTorch files have for some fields, is
    repeated for every level.
    """

    in_channels: int = 8
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",)
    up_block_types: tuple[str, ...] = ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)
    num_attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention_dim: tuple[int, ...] = (1024, 1024, 1024, 1024)
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 768
    num_frames: int = 25
    sample_size: int | tuple[int, int] = 96

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", as_tuple("block_out_channels", self.block_out_channels))
        if isinstance(self.sample_size, (list, tuple)):
            require(
                len(self.sample_size) == 2, f"sample_size has {len(self.sample_size)} entries, expected 2, height and width"
            )
            object.__setattr__(self, "sample_size", tuple(self.sample_size))
        check_widths("block_out_channels", self.block_out_channels)
        for name in _PER_LEVEL:
            object.__setattr__(self, name, per_level(name, getattr(self, name), len(self.block_out_channels)))
        check_fields(self)
        for name, known in _BLOCK_TYPES.items():
            for block_type in getattr(self, name):
                require(block_type in known, f"{name} has {block_type!r}, expected one of {', '.join(known)}")
        for width, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            require(width % heads == 0, f"block_out_channels has {width}, expected a multiple of its {heads} attention heads")
        require(
            self.projection_class_embeddings_input_dim == 3 * self.addition_time_embed_dim,
            f"projection_class_embeddings_input_dim is {self.projection_class_embeddings_input_dim}, expected "
            f"{3 * self.addition_time_embed_dim}: fps, motion bucket and noise augmentation, "
            f"{self.addition_time_embed_dim} features each",
        )
        require(
            self.in_channels == 2 * self.out_channels,
            f"in_channels is {self.in_channels}, expected {2 * self.out_channels}: latents and image latents",
        )
        features = self.addition_time_embed_dim
        require(features % 2 == 0, f"addition_time_embed_dim is {features}, expected an even number: sines and cosines")

    @property
    def down_factor(self) -> int:
        """Total downsampling of the UNet; latent sides must be multiples of it."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The image encoder and temporal decoder. `block_out_channels`: highest resolution first."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    scaling_factor: float = 0.18215
    force_upcast: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", as_tuple("block_out_channels", self.block_out_channels))
        check_widths("block_out_channels", self.block_out_channels)
        check_fields(self)
        require(
            self.in_channels == 3 and self.out_channels == 3,
            f"in_channels and out_channels are {self.in_channels} and {self.out_channels}, expected 3 and 3 (RGB)",
        )

    @property
    def down_factor(self) -> int:
        """Total downsampling of the VAE: image side / latent side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """The CLIP vision tower with projection, and the pixel mean and standard deviation of its preprocessor."""

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    projection_dim: int = 1024
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        check_fields(self)
        require(self.hidden_act in ("gelu", "quick_gelu"), f"hidden_act is {self.hidden_act!r}, expected gelu or quick_gelu")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}",
        )
        require(self.num_channels == 3, f"num_channels is {self.num_channels}, expected 3 (RGB)")
        require(
            self.patch_size <= self.image_size,
            f"patch_size is {self.patch_size}, expected at most image_size, {self.image_size}",
        )
        for name in ("image_mean", "image_std"):
            require(len(getattr(self, name)) == 3, f"{name} has {len(getattr(self, name))} entries, expected 3 (RGB)")


@dataclass(frozen=True)
class EDMConfig:
    """Noise schedule of the sampler: Karras et al. 2022, equation 5."""

    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.sigma_min < self.sigma_max,
            f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: expected 0 < sigma_min < sigma_max",
        )


@dataclass(frozen=True)
class SVDConfig:
    """All shapes of a model and its noise schedule; saved with the weights."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    image_encoder: CLIPConfig = field(default_factory=CLIPConfig)
    scheduler: EDMConfig = field(default_factory=EDMConfig)

    def __post_init__(self) -> None:
        require(
            self.vae.latent_channels == self.unet.out_channels,
            f"the VAE's latent_channels is {self.vae.latent_channels}, the UNet's out_channels {self.unet.out_channels}: "
            "expected the same",
        )
        for dim in self.unet.cross_attention_dim:
            require(
                dim == self.image_encoder.projection_dim,
                f"the UNet's cross_attention_dim is {dim}, the image encoder's projection_dim "
                f"{self.image_encoder.projection_dim}: expected the same",
            )

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this number of pixels, so that every level of the UNet can be halved."""
        return self.vae.down_factor * self.unet.down_factor

    @property
    def default_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the model was trained for.

        `sample_size` is in latents: (height, width), or the side of a square. SVD's own files say 96, but SVD was trained at
        1024x576, the default of the PyTorch pipeline. So 96 stands for 1024x576.
        """
        size = self.unet.sample_size
        if size == 96:
            return 1024, 576
        height, width = size if isinstance(size, tuple) else (size, size)
        return width * self.vae.down_factor, height * self.vae.down_factor

    def to_json(self) -> dict[str, Any]:
        """All fields by component, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SVDConfig:
        """The configuration from the parsed JSON of `to_json`."""
        return cls(**{name: component(**data[name]) for name, component in COMPONENTS.items()})


COMPONENTS = {"unet": UNetConfig, "vae": VAEConfig, "image_encoder": CLIPConfig, "scheduler": EDMConfig}
