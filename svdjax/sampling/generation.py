"""From batches of keyframes to latents and frames: encode, sample, decode."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from svdjax.decoding import staged_decode
from svdjax.decoding.decode_steps import to_levels
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.devices.placing import put, to_host
from svdjax.devices.target import Target, target
from svdjax.devices.xla_options import channels_last_options
from svdjax.models.backward import Backward
from svdjax.models.svd import DECODER, SVD, on_device, part_on_device
from svdjax.models.vae import VAE, encoding_part
from svdjax.parallel import divided
from svdjax.sampling.checks import check_draws, check_image, check_pair, check_progress, decode_chunk_of
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.clip_work import latent_shape
from svdjax.sampling.conditioning import added_time_ids, encode, encode_on
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.methods import Method, backward_of, method_of, needs_keyframe_latents, run_of
from svdjax.sampling.prediction import Conditioning
from svdjax.sampling.sampler import Observe, Preview, Progress, sample
from svdjax.sampling.settings import Settings

SEGMENTS = 20  # progress is reported at most this often during a run


def sample_pair(
    model: SVD,
    first: np.ndarray,
    last: np.ndarray,
    settings: Settings,
    *,
    method: str | Method = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
    plan: ClipPlan | None = None,
    observe: Observe | None = None,
    preview: Preview | None = None,
    one_by_one: bool = False,
) -> Array:
    """Sample latents (b, f, h, w, c) between batches of keyframes (b, H, W, 3).

    Args:
        plan: how to do it within the device's memory; None: in one UNet call per evaluation, networks are not moved.
        observe: see `svdjax.sample`.
        one_by_one: whether each update is a call of its own, also without a plan.
        preview: see `svdjax.sample`; with it, each update is a call of its own, so that it is shown, or the run ended, soon.
        model, first, last, settings, method, draws, progress: see `svdjax.interpolate`.
    """
    check_pair(model, first, last)
    backward = backward_of(method, model.backward)
    if method_of(method).directions == 1:
        return _sample(model, first[None], settings, method, draws, None, progress, plan, None, preview, one_by_one)
    keyframes = np.stack([first, last])
    return _sample(model, keyframes, settings, method, draws, backward, progress, plan, observe, preview, one_by_one)


def sample_image(
    model: SVD,
    image: np.ndarray,
    settings: Settings,
    *,
    draws: Draws | None = None,
    progress: Progress | None = None,
    plan: ClipPlan | None = None,
) -> Array:
    """Sample latents (b, f, h, w, c) of clips that start with images (b, H, W, 3); for the arguments see `sample_pair`."""
    check_image(model, "image", image)
    return _sample(model, image[None], settings, "forward", draws, None, progress, plan)


def _sample(
    model: SVD,
    keyframes: np.ndarray,
    settings: Settings,
    method: str | Method,
    draws: Draws | None,
    backward: Backward | None,
    progress: Progress | None,
    plan: ClipPlan | None,
    observe: Observe | None = None,
    preview: Preview | None = None,
    one_by_one: bool = False,
) -> Array:
    """Sample latents (b, f, h, w, c) from keyframes (d, b, H, W, 3): the first and, if d is 2, the last."""
    _, b, height, width, _ = keyframes.shape
    shape = latent_shape(model.config, settings, (height, width))
    check_progress(progress)
    check_draws(draws, b, (height, width, 3), shape, run_of(method, settings, model.config.scheduler).recurrences)
    if draws is None:
        draws = draw([settings.seed] * b, (height, width, 3), shape)
    conditioning = condition_on(model, keyframes, draws, settings, plan, needs_keyframe_latents(method, settings))
    unet, segments = model.unet, 1 if progress is None else SEGMENTS
    if plan is not None or not isinstance(jax.tree.leaves(unet)[0], jax.Array):  # it may be kept in host memory without a plan
        unet, backward, draws = on_device((unet, backward, draws))
    if plan is not None:
        segments = SEGMENTS  # short scans aren't used, and latents that aren't finite stop the run early
    if preview is not None:
        segments = len(run_of(method, settings, model.config.scheduler))
    return sample(
        unet,
        conditioning,
        settings,
        draws,
        scheduler=model.config.scheduler,
        backward=backward,
        method=method,
        progress=progress,
        segments=segments,
        passes=plan.passes if plan is not None else "together" if one_by_one else None,
        observe=observe,
        preview=preview,
    )


def condition_on(
    model: SVD, keyframes: np.ndarray, draws: Draws, settings: Settings, plan: ClipPlan | None, clean: bool
) -> Conditioning:
    """Encode keyframes (d, b, H, W, 3); `clean`: also without noise, for `Conditioning.keyframe_latents`."""
    strength = settings.noise_aug_strength
    # both keyframes of a pair get the same augmentation noise
    images, encode_all = (jnp.asarray(keyframes), draws.augmentation), encode
    ids = jnp.broadcast_to(added_time_ids(settings.fps, settings.motion_bucket_id, strength), (keyframes.shape[1], 3))
    if (mesh := divided.mesh_of(model.unet)) is not None:
        images, ids = put((images, ids), NamedSharding(mesh, P()))
        encode_all = functools.partial(encode_on, mesh=mesh)
    inputs: tuple[Any, ...] = model.image_encoder, model.vae, *images, strength
    if plan is not None:
        inputs = on_device((inputs[0], encoding_part(model.vae), *inputs[2:4], jnp.float32(strength)))
    embeds, image_latents = encode_all(*inputs)
    keyframe_latents = None
    if clean:  # the same program
        keyframe_latents = encode_all(*inputs[:4], inputs[4] * 0)[1] * model.config.vae.scaling_factor
    conditioning = Conditioning(embeds, image_latents, ids, keyframe_latents)
    # waited for, so that the encoders' memory is free
    return conditioning if plan is None else jax.block_until_ready(on_device(conditioning))


def decode(model: SVD, latents: Array, chunk: int | None = None, plan: DecodePlan | None = None) -> np.ndarray:
    """Decode the sampler's latents (b, f, h, w, c) to frames, uint8 (b, f, H, W, 3).

    Args:
        model: its VAE is used.
        latents: from the sampler.
        chunk: number of frames decoded at a time, or None for all. A chunk shorter than the clip changes the frames.
        plan: how to do it within the device's memory; None: in one program.
    """
    frames, scaling_factor = latents.shape[1], model.config.vae.scaling_factor
    chunk = decode_chunk_of(chunk, "chunk")
    chunk = None if chunk is None or chunk >= frames else chunk
    mesh = divided.mesh_of(model.vae)
    if mesh is not None:
        return to_host(_decode_on(target())(model.vae, latents, scaling_factor, chunk=chunk, mesh=mesh))
    if plan is None:
        return np.asarray(_decode(model.vae, latents, scaling_factor, chunk))
    vae, latents = part_on_device(model.vae, DECODER), on_device(latents)
    groups = [latents[:, start : start + (chunk or frames)] for start in range(0, frames, chunk or frames)]
    return np.concatenate([staged_decode.decode(vae, group, scaling_factor, plan) for group in groups], 1)


def _decode_uint8(vae: VAE, latents: Array, scaling_factor: float, chunk: int | None) -> Array:
    latents = latents / scaling_factor
    frames = vae.decode(latents) if chunk is None else vae.decode_chunked(latents, chunk)
    return to_levels(frames)


_decode = jax.jit(_decode_uint8, static_argnames=("chunk",))


def decode_divided(vae: VAE, latents: Array, scaling_factor: float, chunk: int | None, mesh: Mesh) -> Array:
    """Frames of clips, uint8 (b, f, H, W, 3), each device those pixels that it decodes; see `decode`."""
    share = divided.shares(mesh, len(latents), 1, latents.shape[2:4], 1)
    spec = share.clips(image=True)
    fn = functools.partial(_decode_uint8, scaling_factor=scaling_factor, chunk=chunk)
    return divided.run_divided(fn, mesh, share.pixels, (vae, latents), (P(), spec), spec)


@functools.cache
def _decode_on(device: Target) -> Any:
    return jax.jit(decode_divided, static_argnames=("chunk", "mesh"), compiler_options=channels_last_options())
