"""svdjax: two keyframes in, the video between them out. Stable Video Diffusion and Generative Inbetweening in JAX.

The public names below are imported when first used, so that `import svdjax` stays quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "svdjax.checkpoint",
    "SVD": "svdjax.model",
    "interpolate": "svdjax.pipeline",
    "animate": "svdjax.pipeline",
    "Settings": "svdjax.settings",
    "UNet": "svdjax.unet",
    "VAE": "svdjax.vae",
    "CLIPVision": "svdjax.clip",
    "Backward": "svdjax.backward",
    "backward_unet": "svdjax.backward",
    "rotate_maps": "svdjax.attention",
    "clip_losses": "svdjax.finetune",
    "loss_and_gradients": "svdjax.finetune",
    "Examples": "svdjax.finetune",
    "Conditioning": "svdjax.sampler",
    "sample": "svdjax.sampler",
    "Draws": "svdjax.draws",
    "draw": "svdjax.draws",
    "SVDConfig": "svdjax.config",
    "UNetConfig": "svdjax.config",
    "VAEConfig": "svdjax.config",
    "CLIPConfig": "svdjax.config",
    "EDMConfig": "svdjax.config",
    "InputError": "svdjax.errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'svdjax' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
