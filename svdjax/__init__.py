"""svdjax: two keyframes in, the video between them out. Stable Video Diffusion and Generative Inbetweening in JAX.

The public names below are imported when first used, so that `import svdjax` stays quick.
"""

from importlib import import_module
from typing import Any

from svdjax.version import __version__ as __version__

_PUBLIC = {
    "load": "svdjax.checkpoints.checkpoint",
    "SVD": "svdjax.models.svd",
    "interpolate": "svdjax.pipeline",
    "animate": "svdjax.pipeline",
    "Settings": "svdjax.sampling.settings",
    "UNet": "svdjax.models.unet",
    "VAE": "svdjax.models.vae",
    "CLIPVision": "svdjax.models.clip",
    "Backward": "svdjax.models.backward",
    "backward_unet": "svdjax.models.svd",
    "rotate_maps": "svdjax.models.attention",
    "clip_losses": "svdjax.losses.finetuning",
    "loss_and_gradients": "svdjax.losses.finetuning",
    "Examples": "svdjax.losses.finetuning",
    "Conditioning": "svdjax.sampling.sampler",
    "sample": "svdjax.sampling.sampler",
    "Draws": "svdjax.sampling.draws",
    "draw": "svdjax.sampling.draws",
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
