"""A checked command line of `sample.interpolate`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from svdjax.media.output_plan import OutputPlan
from svdjax.model_sources import ModelSource
from svdjax.parallel.mesh import describe as mesh_in_words
from svdjax.sampling.draws import Draws
from svdjax.sampling.settings import Settings
from svdjax.version import __version__


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """Options checked against the model and the shape of the first keyframe; see `InterpolationRequest`.

    Attributes:
        size: (width, height) of the video in pixels, before it is enlarged.
    """

    method: str
    settings: Settings
    size: tuple[int, int]
    output: OutputPlan
    sheet: Path | None
    rate: Fraction
    noise: Draws | None
    metadata: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class InterpolationRequest:
    """The checked command line.

    Attributes:
        keyframes: fitted to the video's size, uint8 (H, W, 3).
        factor: of the frame rate (`--rate`), see `svdjax.interpolate`.
        rate: frames per second of the file.
        scale: whole number by which the video's frames are enlarged.
        noise: random draws to use instead of the seed's, or None.
        memory: bytes of the device that the run may use; None without a limit.
        kernels: see `svdjax.kernels.choice`.
        loop, keep_keyframes: see `svdjax.interpolate`.
        notes: lines for the user: what was chosen, and how files were converted and fitted.
        mesh: devices to divide the clips over; None for one device, and in a batch, whose clips have one mesh.
    """

    model: ModelSource
    backward: Path | None
    keyframes: list[np.ndarray]
    settings: Settings
    method: str
    output: OutputPlan
    factor: int
    rate: Fraction
    decode_chunk: int | None
    dtype: str
    memory: int | None
    kernels: str
    noise: Draws | None
    save_latents: Path | None
    sheet: Path | None
    scale: int
    loop: bool
    keep_keyframes: bool
    metadata: dict[str, str]
    notes: tuple[str, ...]
    mesh: Mesh | None = None

    @property
    def clips(self) -> int:
        """Number of clips, each between two neighbouring keyframes."""
        return len(self.keyframes) - (not self.loop)

    def facts(self) -> dict[str, str]:
        """What must be equal in processes that sample this video together, by name."""
        return {
            **self.metadata,
            "the model's configuration": repr(self.model.config),
            "--mesh": "none" if self.mesh is None else mesh_in_words(self.mesh),
            "jax": jax.__version__,
            "svdjax": __version__,
        }
