"""svdjax: two keyframes in, the video between them out. Stable Video Diffusion and Generative Inbetweening in JAX.

The public names below are imported on first use, so that `import svdjax` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from svdjax.version import __version__ as __version__

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares the two lists
    from svdjax.config import CLIPConfig as CLIPConfig
    from svdjax.config import EDMConfig as EDMConfig
    from svdjax.config import SVDConfig as SVDConfig
    from svdjax.config import UNetConfig as UNetConfig
    from svdjax.config import VAEConfig as VAEConfig
    from svdjax.errors import InputError as InputError
    from svdjax.loading import load as load
    from svdjax.losses.finetuning import Examples as Examples
    from svdjax.losses.finetuning import clip_losses as clip_losses
    from svdjax.losses.finetuning import loss_and_gradients as loss_and_gradients
    from svdjax.models.backward import Backward as Backward
    from svdjax.models.clip import CLIPVision as CLIPVision
    from svdjax.models.svd import SVD as SVD
    from svdjax.models.svd import backward_unet as backward_unet
    from svdjax.models.temporal_attention import rotate_maps as rotate_maps
    from svdjax.models.unet import UNet as UNet
    from svdjax.models.vae import VAE as VAE
    from svdjax.pipeline import animate as animate
    from svdjax.pipeline import interpolate as interpolate
    from svdjax.sampling.draws import Draws as Draws
    from svdjax.sampling.draws import draw as draw
    from svdjax.sampling.prediction import Conditioning as Conditioning
    from svdjax.sampling.sampler import sample as sample
    from svdjax.sampling.settings import Settings as Settings

_PUBLIC = {  # the public names of each module
    "svdjax.config": (
        "CLIPConfig",
        "EDMConfig",
        "SVDConfig",
        "UNetConfig",
        "VAEConfig",
    ),
    "svdjax.errors": ("InputError",),
    "svdjax.loading": ("load",),
    "svdjax.losses.finetuning": (
        "Examples",
        "clip_losses",
        "loss_and_gradients",
    ),
    "svdjax.models.temporal_attention": ("rotate_maps",),
    "svdjax.models.backward": ("Backward",),
    "svdjax.models.clip": ("CLIPVision",),
    "svdjax.models.svd": (
        "SVD",
        "backward_unet",
    ),
    "svdjax.models.unet": ("UNet",),
    "svdjax.models.vae": ("VAE",),
    "svdjax.pipeline": (
        "animate",
        "interpolate",
    ),
    "svdjax.sampling.draws": (
        "Draws",
        "draw",
    ),
    "svdjax.sampling.prediction": ("Conditioning",),
    "svdjax.sampling.sampler": ("sample",),
    "svdjax.sampling.settings": ("Settings",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'svdjax' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]
