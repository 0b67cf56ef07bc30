"""Figures and features that need a neural network; a network is loaded at its first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sample.encoders import efficientnet, i3d, inception, lpips, packaged, pickled_arrays, videomae
from sample.evaluation.figure_options import CD_FVD, FID, FRECHET_EFFICIENTNET, FVD, LPIPS, LPIPS_VGG, FigureOptions

Function = Callable[[np.ndarray, np.ndarray], Any]  # true and generated clip, uint8 (f, H, W, 3) -> array
NAMES = (LPIPS, LPIPS_VGG, FVD, CD_FVD, FID, FRECHET_EFFICIENTNET)


class Networks:
    """The networks of an evaluation's figures, by figure."""

    def __init__(self, options: FigureOptions):
        self._options = options
        self._functions: dict[str, Function] = {}

    def __call__(self, name: str, truth: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """LPIPS of a clip, (), or the features of its frames, (m, c).

        Args:
            name: one of `NAMES`.
            truth, frames: uint8 (f, H, W, 3).
        """
        if name not in self._functions:
            self._functions[name] = _load(name, self._options.files[name])
        with jax.default_matmul_precision("float32"):  # a GPU's default has 10 bits
            return np.asarray(self._functions[name](truth, frames), np.float32)


def _load(name: str, file: Path) -> Function:
    """Read the weights of a figure onto the device; return the function of the true and the generated clip."""
    if name in (LPIPS, LPIPS_VGG):
        net = lpips.ALEX if name == LPIPS else lpips.VGG
        heads = jax.device_put(lpips.parameters(pickled_arrays.load(file.read_bytes(), str(file))))
        return lambda truth, frames: lpips.clip_distance(heads, truth, frames, net)
    if name == FVD:
        i3d_weights = jax.device_put(i3d.parameters(pickled_arrays.load(file.read_bytes(), str(file))))
        return lambda truth, frames: i3d.logits(i3d_weights, frames)[None]
    tensors = packaged.Tensors(packaged.torch_arrays(file), file)
    if name == CD_FVD:
        videomae_weights = jax.device_put(videomae.parameters(tensors))
        return lambda truth, frames: videomae.features(videomae_weights, frames)[None]
    if name == FID:
        inception_weights = jax.device_put(inception.parameters(tensors))
        return lambda truth, frames: inception.features(inception_weights, frames[1:-1])
    efficientnet_weights = jax.device_put(efficientnet.parameters(tensors))
    return lambda truth, frames: efficientnet.features(efficientnet_weights, frames[1:-1])
