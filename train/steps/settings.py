"""Settings of a training step: its inputs besides weights and batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from svdjax.losses.autoencoding import Autoencoding
from svdjax.losses.training_noise import Noising


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings:
    """Settings of a step of the backward fine-tune.

    Attributes:
        batch_size: clips per step, over all devices.
        num_frames: frames per clip.
        size: (width, height) of a clip in pixels.
        seed: seed of noise levels and noise.
        learning_rate: of AdamW, constant.
        accumulate: number of parts of a step, computed one after the other to save memory.
        rotation: whether the backward direction uses the rotated attention maps of the forward direction.
        remat: whether activations are recomputed for the gradient instead of kept.
        noising: noise levels and the UNet's conditioning.
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


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """Settings of a step of training from scratch.

    Attributes:
        batch_size: clips per step, over all devices.
        num_frames: frames per clip.
        size: (width, height) of a clip in pixels.
        steps: steps of the whole run; the learning rate falls to 0 at the end.
        seed: seed of noise levels and noise.
        learning_rate: highest learning rate of Muon and AdamW.
        warmup: steps until the learning rate is reached.
        average: decay of the exponential moving average (EMA) of the weights, which is exported.
        dropout: share of clips without image conditioning.
        noises: noise samples per clip in one step of the UNet; the VAE encodes the clip only once. The noise levels of a batch
            are spread evenly.
        crop: side in pixels of the square crops that the VAE is trained on; None: whole clips.
        freeze_encoder: whether the VAE's encoder is frozen (VAE stage), or the image encoder (UNet stage).
        accumulate: number of parts of a step, computed one after the other to save memory.
        remat: whether activations are recomputed for the gradient instead of kept.
        noising: noise levels and the UNet's conditioning.
        autoencoding: weights of the VAE's loss.
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
