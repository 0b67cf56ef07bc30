"""The batch of clips to make, and the programs that sample it, with the shapes of their arguments."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from svdjax.config import SVDConfig
from svdjax.memory.precision import stats_dtype
from svdjax.memory.programs import Program, bytes_of
from svdjax.models.backward import Backward
from svdjax.models.svd import SVD, leaves
from svdjax.models.vae import encoding_part
from svdjax.sampling import passes as unet_calls
from svdjax.sampling.conditioning import added_time_ids, encode
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.methods import Method, backward_of, method_of, needs_keyframe_latents, run_of
from svdjax.sampling.prediction import Conditioning
from svdjax.sampling.runs import Kind, Run, fused_directions, window_length, window_passes, window_program
from svdjax.sampling.sampler import guide_of, scan
from svdjax.sampling.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ClipWork:
    """A batch of clips to make.

    Attributes:
        model: its networks and backward tensors may be shapes (`jax.ShapeDtypeStruct`) only.
        size: (width, height) of the frames in pixels.
        settings: settings of the sampler.
        method: a key of `methods.METHODS`, or a `Method`.
        batch: number of clips sampled together.
        decode_chunk: frames decoded at a time; None is all.
        draws: given draws, arrays or shapes; None for those of a seed.
        preview: whether the run gives previews, see `sampler.sample`.
        rate: factor by which the frame rate is raised afterwards, see `svdjax.frame_rate`.
    """

    model: SVD
    size: tuple[int, int]
    settings: Settings
    method: str | Method = "dual"
    batch: int = 1
    decode_chunk: int | None = None
    draws: Draws | None = None
    preview: bool = False
    rate: int = 1

    @functools.cached_property
    def shapes(self) -> SVD:
        """The model, shapes only."""
        networks = {name: _shapes(getattr(self.model, name)) for name in ("unet", "vae", "image_encoder", "backward")}
        return SVD(config=self.model.config, **networks)

    @property
    def backward(self) -> Backward | None:
        """The backward half; None for the forward direction only."""
        return backward_of(self.method, self.shapes.backward)

    @property
    def directions(self) -> int:
        """2, or 1 for the forward direction only."""
        return method_of(self.method).directions

    @functools.cached_property
    def run(self) -> Run:
        """The updates of a clip."""
        return run_of(self.method, self.settings, self.model.config.scheduler)

    @property
    def together(self) -> int:
        """Most directions that an update predicts."""
        return max(1 if kind.single else self.directions for kind in self.run.kinds)

    @property
    def most_clips(self) -> int:
        """Most clips that an update predicts."""
        return max(map(self.run.clips, range(len(self.run))))

    @property
    def guided(self) -> bool:
        """Whether there are predictions without conditioning."""
        return any(kind.unconditional for kind in self.run.kinds)

    @property
    def vae_dtype(self) -> Any:
        """Dtype of the VAE."""
        return next(iter(leaves(self.shapes.vae).values())).dtype

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        return self.size[1], self.size[0], 3

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(f, h, w, c)."""
        return latent_shape(self.model.config, self.settings, (self.size[1], self.size[0]))


def latent_shape(config: SVDConfig, settings: Settings, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Shape (f, h, w, c) of the latents of a clip of `image_size` = (height, width) pixels."""
    height, width = image_size
    factor = config.vae.down_factor
    return settings.num_frames, height // factor, width // factor, config.vae.latent_channels


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def encode_program(work: ClipWork) -> Program:
    """Both encoders, of the keyframes of a batch."""
    keyframes = jax.ShapeDtypeStruct((work.directions, work.batch, *work.image_shape), jnp.uint8)
    augmentation = jax.ShapeDtypeStruct((work.batch, *work.image_shape), jnp.float32)
    strength = jax.ShapeDtypeStruct((), jnp.float32)
    args = work.shapes.image_encoder, encoding_part(work.shapes.vae), keyframes, augmentation, strength
    return Program(name="encode", fn=encode, args=args)


def sample_programs(work: ClipWork, passes: str) -> tuple[list[Program], int]:
    """The programs of the updates and of a raised frame rate; the bytes on the device besides each program's arguments.

    Args:
        work: the batch of clips.
        passes: a key of `passes.PASSES`.
    """
    settings, unet, run = work.settings, work.shapes.unet, work.run
    dtype = stats_dtype(unet.dtype)
    seeded = jax.eval_shape(lambda: draw([0] * work.batch, work.image_shape, work.latent_shape))
    draws = seeded if work.draws is None else _shapes(work.draws)
    embeds, image_latents = jax.eval_shape(encode, *encode_program(work).args)
    ids = jax.eval_shape(lambda: jnp.broadcast_to(added_time_ids(7, 127, 0.02), (work.batch, 3)))
    keyframes = image_latents if needs_keyframe_latents(work.method, settings) else None
    conditioning = Conditioning(embeds, image_latents, ids, keyframes)
    guide = jax.eval_shape(lambda: guide_of(settings, fused_directions(run.updates, work.directions), dtype))
    latents = jax.ShapeDtypeStruct(draws.initial.shape, dtype)
    # all of them, as `sampler.sample` gives them: JAX would compile a call with other keywords again
    static = {"trajectory": False, "clean": work.preview, "mesh": None}
    programs: list[Program] = []
    held_bytes, streams_bytes = 0, []
    for kind in dict.fromkeys(run.kinds):
        first = run.kinds.index(kind)
        at = jax.eval_shape(lambda first=first: run.rows(first, first + 1, dtype))
        weights = guide if kind.guided else dataclasses.replace(guide, scale=None)
        backward = None if kind.single else work.backward
        args = unet, backward, latents, at, conditioning, weights, draws
        made, held, kept = _programs_of(passes, kind, args, {"kind": kind, **static})
        programs += made
        held_bytes = max(held_bytes, held)
        streams = {run.stream(k) for k, its in enumerate(run.kinds) if its == kind}
        streams_bytes += [kept] * len(streams) * (kept > 0)
    if work.rate > 1:
        made, held = _window_programs(work, passes, (unet, latents, conditioning, draws), static)
        programs += made
        held_bytes = max(held_bytes, held)
    # in one UNet call, a program's own deep features are among its arguments or results
    own = min(streams_bytes, default=0) if passes == "together" else 0
    return programs, held_bytes + sum(streams_bytes) - own


def _window_programs(work: ClipWork, passes: str, args: tuple[Any, ...], static: dict[str, Any]) -> tuple[list[Program], int]:
    """The programs of a raised frame rate that the run itself doesn't have, and the bytes besides their arguments.

    Args:
        work: the batch of clips.
        passes: a key of `passes.PASSES`, of the run.
        args: the UNet, the clip's latents, conditioning and draws, shapes only.
        static: see `_programs_of`, without the kind.
    """
    unet, latents, conditioning, draws = args
    settings, run = dataclasses.replace(work.settings, num_frames=window_length(work.settings.num_frames, work.rate)), work.run
    kind, at = window_program(run, work.settings, work.rate, latents.dtype)
    if kind in run.kinds and settings.num_frames == work.settings.num_frames:
        return [], 0
    guide = jax.eval_shape(lambda: guide_of(settings, work.directions, latents.dtype))
    b, _, *image = latents.shape
    latents = jax.ShapeDtypeStruct((b, settings.num_frames, *image), latents.dtype)
    whole = unet, work.backward, latents, _shapes(at), conditioning, guide, draws
    return _programs_of(window_passes(run, passes), kind, whole, {"kind": kind, **static})[:2]


def _programs_of(passes: str, kind: Kind, args: tuple[Any, ...], static: dict[str, Any]) -> tuple[list[Program], int, int]:
    """The programs of an update.

    Args:
        passes: a key of `passes.PASSES`.
        kind: of the update.
        args: of `scan`, shapes only.
        static: the other arguments of `scan`.

    Returns:
        The programs; bytes on the device besides their arguments; bytes of the deep features that a stream keeps.
    """
    unet, backward, latents, at, conditioning, _, draws = args
    prepare = functools.partial(unet_calls.prepare, kind=kind)
    latents, clips = jax.eval_shape(prepare, latents, at, conditioning, draws)
    directions = len(clips.sample)

    def deep_of(clips: Any) -> Any:
        """Shape of the deep features of some clips."""
        if kind.deep == "run":
            return None
        return jax.eval_shape(functools.partial(unet_calls.predict, store=True), unet, None, clips, None)[1]

    kept = bytes_of(deep_of(clips)) if kind.deep == "store" else 0
    reused = deep_of if kind.deep == "reuse" else lambda _: None
    prefix = "direction_" if kind.single else ""
    if passes == "together":
        return [Program(name=f"{prefix}step", fn=scan, args=(*args, reused(clips)), static=static)], 0, kept
    held = latents, clips, conditioning, draws, clips.sample  # the last: upper bound of the predictions, half as large
    store = {"store": kind.deep == "store"}

    def part(directions: slice) -> Any:
        return jax.eval_shape(lambda clips: clips.some(directions, slice(0, 1)), clips)

    if passes == "guidance" or directions == 1:
        one = part(slice(directions))
        half = Program(name=f"{prefix}half_step", fn=unet_calls.half, args=(unet, backward, one, reused(one)), static=store)
        return [half], bytes_of(held), kept
    one = part(slice(0, 1))
    args = unet, backward, one, reused(one)
    maps = unet_calls.forward_clip.eval_shape(*args, **store)[1]
    other = part(slice(1, 2))
    return (
        [
            Program(name="forward_clip", fn=unet_calls.forward_clip, args=args, static=store),
            Program(
                name="backward_clip",
                fn=unet_calls.backward_clip,
                args=(unet, backward, other, maps, reused(other)),
                static=store,
            ),
        ],
        bytes_of(held),
        kept,
    )
