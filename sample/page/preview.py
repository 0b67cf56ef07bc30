"""Preview of a running clip: small frames from latents by a linear map, and their animation for the page.

The map is fitted by least squares to the VAE's own latents of the keyframes and their downscaled pixels, so it is right for
every VAE.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from svdjax.models.svd import SVD
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.draws import draw
from svdjax.sampling.generation import condition_on, latent_shape
from svdjax.sampling.methods import Method, method_of
from svdjax.sampling.settings import Settings

# Weight of the fit's pull towards 0, relative to the variance of the latents: keyframes of few colours leave some directions
# of latent space undetermined.
_RIDGE = 1e-2
_QUALITY = 85  # of WebP


def fit_map(latents: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The linear map from the latents around a pixel to its RGB.

    Args:
        latents: (n, h, w, c).
        images: uint8 (n, H, W, 3), with H and W the same multiple of h and w.

    Returns:
        (9 * c + 1, 3): for each of 3x3 neighbours its channels, then the constant; RGB is in [0, 1].
    """
    n, h, w, _ = latents.shape
    factor = images.shape[1] // h
    pixels = images.reshape(n, h, factor, w, factor, 3).mean((2, 4)).reshape(-1, 3) / 255
    x = _neighbours(latents.astype(np.float64)).reshape(n * h * w, -1)
    centre, colour = x.mean(0), pixels.mean(0)
    x = x - centre
    gram = x.T @ x
    pull = _RIDGE * np.trace(gram) / len(gram) + np.finfo(np.float64).tiny  # also for keyframes of one colour
    weights = np.linalg.solve(gram + pull * np.eye(len(gram)), x.T @ (pixels - colour))
    return np.vstack([weights, colour - centre @ weights])


def _neighbours(latents: np.ndarray) -> np.ndarray:
    """The channels of 3x3 neighbours of each pixel: (n, h, w, c) -> (n, h, w, 9 * c); borders are repeated."""
    h, w = latents.shape[1:3]
    padded = np.pad(latents, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    return np.concatenate([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], -1)


def map_of(
    model: SVD, first: np.ndarray, last: np.ndarray, settings: Settings, method: str | Method, plan: ClipPlan | None
) -> np.ndarray:
    """The map fitted to two keyframes, uint8 (H, W, 3); see `fit_map`. It runs programs that the clip needs anyway."""
    keyframes = np.stack([first, last])[: method_of(method).directions, None]
    shape = latent_shape(model.config, settings, first.shape[:2])
    conditioning = condition_on(model, keyframes, draw([settings.seed], first.shape, shape), settings, plan, True)
    return fit_map(np.asarray(conditioning.keyframe_latents, np.float32)[:, 0], keyframes[:, 0])


def frames_of(latents: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Small frames of latents: (f, h, w, c) -> uint8 (f, h, w, 3); `weights` is from `fit_map`."""
    pixels = _neighbours(np.asarray(latents, np.float32)) @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """A picture, uint8 (H, W, 3), as a WebP image in a data URI."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
