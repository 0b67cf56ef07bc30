"""What fixes a training step besides its weights and its batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from svdjax.losses.autoencoding import Autoencoding
from svdjax.losses.finetuning import Noising


@dataclass(frozen=True)
class FinetuningSettings:
    """What fixes a step besides its weights and its batch.

    Attributes:
        batch_size: clips of a step, over all devices.
        num_frames: of a clip.
        size: (width, height) of a clip in pixels.
        seed: of sigmas and noises.
        learning_rate: of AdamW.
        accumulate: parts that a step is done in.
        rotation: whether the backward pass is given the rotated forward maps.
        remat: whether activations are computed again instead of kept.
        noising: levels, and what the UNet is told.
    """

    batch_size: int
    num_frames: int
    size: tuple[int, int]
    seed: int = 0
    learning_rate: float = 1e-4
    accumulate: int = 1
    rotation: bool = True
    remat: bool = True
    noising: Noising = dataclasses.field(default_factory=Noising)


@dataclass(frozen=True)
class PretrainingSettings:
    """What fixes a step besides its weights and its batch.

    Attributes:
        batch_size: clips of a step, over all devices.
        num_frames: of a clip.
        size: (width, height) of a clip in pixels.
        steps: of the whole run, at whose end the learning rate is zero.
        seed: of sigmas and noises.
        learning_rate: of Muon and AdamW, at its highest.
        warmup: steps until it is.
        average: decay of the mean of the weights, which is what is kept.
        dropout: share of clips that aren't told their first frame.
        noises: of each clip that the UNet is trained on at once: the VAE encodes it once for all. A batch's levels are
            spread evenly.
        crop: side of the square of each clip that the VAE is trained on, in pixels; None is the whole clip.
        freeze_encoder: whether the VAE's encoder stays, or the image encoder beside the UNet.
        accumulate: parts that a step is done in.
        remat: whether activations are computed again instead of kept.
        noising: levels, and what the UNet is told.
        autoencoding: the VAE's loss.
    """

    batch_size: int
    num_frames: int
    size: tuple[int, int]
    steps: int
    seed: int = 0
    learning_rate: float = 3e-3
    warmup: int = 200
    average: float = 0.999
    dropout: float = 0.1
    noises: int = 1
    crop: int | None = None
    freeze_encoder: bool = False
    accumulate: int = 1
    remat: bool = True
    noising: Noising = dataclasses.field(default_factory=Noising)
    autoencoding: Autoencoding = dataclasses.field(default_factory=Autoencoding)
