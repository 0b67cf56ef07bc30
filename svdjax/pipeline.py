"""From keyframes to frames: conditioning, sampling, decoding, for one pair, a batch or a chain of keyframes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh

from svdjax.chain import check_pairs, interpolate_pairs, join
from svdjax.devices.placing import put
from svdjax.errors import InputError
from svdjax.frame_rate.windows import check_rate
from svdjax.media.keyframes import pixels_of
from svdjax.models.svd import NETWORKS, SVD
from svdjax.parallel import divided, sampling_mesh
from svdjax.parallel.sampling_mesh import Frames, Spec
from svdjax.parallel.sharding import replicated
from svdjax.sampling.checks import check_draws, check_image, check_model, check_progress, decode_chunk_of
from svdjax.sampling.clip_plan import ClipPlan, plan_for
from svdjax.sampling.clip_work import ClipWork, latent_shape
from svdjax.sampling.draws import Draws
from svdjax.sampling.generation import decode, sample_image
from svdjax.sampling.methods import Method, chosen_method, run_of, settings_of
from svdjax.sampling.sampler import Progress
from svdjax.sampling.settings import Settings

if TYPE_CHECKING:
    from svdjax.media.keyframes import Keyframe

IMAGE_TO_VIDEO_STEPS = 25  # num_inference_steps of diffusers' StableVideoDiffusionPipeline


def interpolate(
    model: SVD,
    *keyframes: Keyframe,
    decode_chunk: int | None = None,
    method: str | Method | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
    loop: bool = False,
    keep_keyframes: bool = False,
    rate: int = 1,
    memory: float | None = None,
    mesh: Spec | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video between two or more keyframes, all included.

    Args:
        model: from `svdjax.load`, with the backward weights that the method needs.
        keyframes: n of them in time order, n >= 2, each an array uint8 (H, W, 3), a Pillow image or the path of an image file,
            or each a batch (b, H, W, 3). Sides must be multiples of `model.config.size_multiple`; `svdjax.media.fit.fit` brings
            an image to such a size.
        decode_chunk: number of frames decoded at a time: fewer need less memory, but change the result. None is all frames.
        method: a key of `svdjax.sampling.methods.METHODS`, or a `Method`. Default: `dual` with backward weights, and without
            them `vibid` with `prefix="mpd"`.
        draws: random draws to use instead of the seed's; every pair of keyframes uses the same.
        progress: called at most 20 times per pair, and after each of the 8 steps of a raised frame rate, with the UNet
            evaluations done so far and in total, over all pairs.
        loop: add the clip from the last keyframe to the first, without its last frame: the video can be repeated.
        keep_keyframes: show the keyframes themselves instead of their decoded latents, see `svdjax.media.keyframe_blend`.
        rate: 2 or 4 for as many times the frames: new ones between each two, see `svdjax.frame_rate.sampling`.
        memory: GiB of the device that the run may use, its networks included: work that doesn't fit is done in parts,
            and a model loaded with `offload` is on the device only in parts. The frames are equal up to rounding. Default: what
            the device has; on a CPU, and for a model on several devices, there is no limit.
        mesh: devices to divide the work over, see `svdjax.load`. A model that was not loaded on this mesh is copied there, for
            this call. Default: the model's.
        **settings: fields of `Settings`. Default: those of the method, then the model's `num_frames` and
            `model.defaults`, then those of `Settings`. Every pair has the draws of the same seed, so a batch gives the same
            frames as its pairs one by one.

    Returns:
        uint8 (m, H, W, 3), or (b, m, H, W, 3) for batches, with m = (n - 1) * rate * (num_frames - 1) + 1: neighbouring
        clips share a keyframe, which is shown once. With `loop`, m = n * rate * (num_frames - 1).

    Raises:
        InputError: fewer than two keyframes, an image of another dtype or shape, a setting out of its range, backward weights
            that are missing or were trained for another method, a loop whose last keyframe is its first, or too little memory.
        FloatingPointError: latents that are not finite.
    """
    check_model(model)
    images, batched = _batches([f"keyframe {k + 1}" for k in range(len(keyframes))], keyframes)
    method, fields = chosen_method(method, model.backward, settings)
    given = settings_for(model, method, **fields)
    model = _checked_on_mesh(model, mesh, [image.shape for image in images[: len(images) - 1 + loop]], given, method)
    check_pairs(model, images, given, method, draws, progress, loop, keep_keyframes, rate)
    rate = check_rate(rate, given.num_frames)
    clips = interpolate_pairs(
        model,
        images,
        given,
        method=method,
        draws=draws,
        decode_chunk=decode_chunk,
        progress=progress,
        loop=loop,
        keep_keyframes=keep_keyframes,
        rate=rate,
        plan=_plan(model, images[0], given, method, decode_chunk_of(decode_chunk), memory, draws, rate),
    )
    frames = join([clip.frames for clip in clips], loop=loop)
    return frames if batched else frames[0]


def _plan(
    model: SVD,
    images: np.ndarray,
    settings: Settings,
    method: str | Method,
    decode_chunk: int | None,
    memory: float | None,
    draws: Draws | None,
    rate: int = 1,
) -> ClipPlan | None:
    """The plan for a batch of clips, see `plan_for`; `images` (b, H, W, 3) are their first."""
    b, height, width, _ = images.shape
    size = width, height
    options = {"batch": b, "decode_chunk": decode_chunk, "draws": draws, "rate": rate}
    work = ClipWork(model=model, size=size, settings=settings, method=method, **options)
    return plan_for(work, memory)


def on_mesh(model: SVD, mesh: Mesh) -> SVD:
    """A copy of a model on the devices of a sampling mesh."""
    divided.connect(mesh)
    networks = {name: divided.placed(getattr(model, name), mesh) for name in NETWORKS}
    return dataclasses.replace(model, **networks, backward=model.backward and put(model.backward, replicated(mesh)))


def _checked_on_mesh(
    model: SVD, mesh: Spec | None, shapes: Sequence[tuple[int, ...]], settings: Settings, method: str | Method
) -> SVD:
    """A model on a mesh, after a check that the mesh can divide the clips; `shapes` (b, H, W, 3) of the first keyframes."""
    found = divided.mesh_of(model.unet) if mesh is None else sampling_mesh.sampling_mesh(mesh)
    if found is None or not shapes or len(shapes[0]) != 4:
        return model  # other shapes are refused later
    b, height, width, _ = shapes[0]
    guided = any(kind.unconditional for kind in run_of(method, settings, model.config.scheduler).kinds)
    sizes, pixels = ((width, height),), model.config.size_multiple
    sampling_mesh.check_frames(found, Frames(pairs=b * len(shapes), guided=guided, sizes=sizes, pixels=pixels), "mesh")
    return model if found == divided.mesh_of(model.unet) else on_mesh(model, found)


def _batches(names: Sequence[str], keyframes: Sequence[Keyframe]) -> tuple[list[np.ndarray], bool]:
    """Keyframes as batches uint8 (b, H, W, 3), and whether they were given as batches."""
    images = [pixels_of(name, keyframe) for name, keyframe in zip(names, keyframes, strict=True)]
    batched = bool(images) and images[0].ndim == 4
    for name, image in zip(names, images, strict=True):
        if (image.ndim == 4) is not batched:
            raise InputError(f"{name} has shape {image.shape}, {names[0]} {images[0].shape}, expected the same")
    return images if batched else [image[None] for image in images], batched


def settings_for(model: SVD, method: str | Method = "dual", **settings: Any) -> Settings:
    """`Settings` with these fields; the others have the defaults of the method, the model or `Settings`, in this order."""
    return settings_of(method, settings, {"num_frames": model.config.unet.num_frames, **model.defaults})


def animate(
    model: SVD,
    image: Keyframe,
    *,
    decode_chunk: int | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
    memory: float | None = None,
    mesh: Spec | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video that starts with an image: SVD's own image-to-video, only the forward direction.

    Args:
        model: from `svdjax.load`; backward weights are not used.
        image: an array uint8 (H, W, 3), a Pillow image or the path of an image file, or a batch (b, H, W, 3); sizes as for
            `interpolate`.
        decode_chunk, draws, progress, memory, mesh: as for `interpolate`.
        **settings: fields of `Settings`; the default of `num_frames` is the model's, that of `steps` is 25. Guidance
            increases from its smallest scale at the first frame to its largest at the last, for any `fusion`.

    Returns:
        uint8 (f, H, W, 3), or (b, f, H, W, 3) for a batch.

    Raises:
        InputError: an image of another dtype or shape, a setting out of its range, too little memory.
        FloatingPointError: latents that are not finite.
    """
    check_model(model)
    # the model's own defaults are for two directions
    given = settings_of("forward", settings, {"num_frames": model.config.unet.num_frames, "steps": IMAGE_TO_VIDEO_STEPS})
    (images,), batched = _batches(["image"], [image])
    check_image(model, "image", images)
    check_progress(progress)
    pixels, recurrences = images.shape[1:], run_of("forward", given, model.config.scheduler).recurrences
    check_draws(draws, len(images), pixels, latent_shape(model.config, given, pixels[:2]), recurrences)
    model = _checked_on_mesh(model, mesh, [images.shape], given, "forward")
    chunk = decode_chunk_of(decode_chunk)
    plan = _plan(model, images, given, "forward", chunk, memory, draws)
    frames = decode(
        model, sample_image(model, images, given, draws=draws, progress=progress, plan=plan), chunk, plan and plan.decode
    )
    return frames if batched else frames[0]
