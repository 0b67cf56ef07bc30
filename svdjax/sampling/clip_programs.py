"""The programs that make a clip, with the shapes of their arguments: compiled before a model is loaded, and used afterwards."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from svdjax.config import SVDConfig
from svdjax.devices.target import target
from svdjax.memory.precision import stats_dtype
from svdjax.memory.programs import Compile, Phase, Program, bytes_of, compile_here
from svdjax.models.backward import Backward
from svdjax.models.svd import DECODER, ENCODER, SVD, leaves
from svdjax.models.vae import encoding_part
from svdjax.sampling import passes as unet_calls
from svdjax.sampling import staged_decode
from svdjax.sampling.conditioning import added_time_ids, encode
from svdjax.sampling.draws import draw
from svdjax.sampling.methods import backward_of
from svdjax.sampling.prediction import Conditioning
from svdjax.sampling.sampler import evaluations_of, guide_of, scan
from svdjax.sampling.settings import Settings
from svdjax.sampling.staged_decode import DecodePlan

# A UNet call needs more scratch than this number of its first level's activations: a feed-forward's hidden values take 8 where
# they are undivided, as on a GPU. SVD-XT's programs for GPUs needed 13 to 19. Programs that can't fit are not compiled.
LEAST_ACTIVATIONS, LEAST_ACTIVATIONS_ON_CPU = 10, 3


@dataclass(frozen=True, kw_only=True)
class ClipWork:
    """A batch of clips to make.

    Attributes:
        model: its networks and backward tensors may be shapes (`jax.ShapeDtypeStruct`) only.
        size: (width, height) of the frames in pixels.
        settings: settings of the sampler.
        method: a key of `methods.METHODS`.
        batch: number of clips sampled together.
        decode_chunk: frames decoded at a time; None is all.
    """

    model: SVD
    size: tuple[int, int]
    settings: Settings
    method: str = "dual"
    batch: int = 1
    decode_chunk: int | None = None

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
        return 1 if self.method == "forward" else 2

    @property
    def guided(self) -> bool:
        """Whether there are predictions without conditioning."""
        return bool((self.settings.guidance_scale(self.directions) != 1).any())

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
    """The programs of an evaluation, and the bytes that are on the device besides each program's arguments.

    Args:
        work: the batch of clips.
        passes: a key of `passes.PASSES`.
    """
    settings, unet, backward = work.settings, work.shapes.unet, work.backward
    plan = settings.schedule(work.model.config.scheduler)
    dtype = stats_dtype(unet.dtype)
    draws = jax.eval_shape(lambda: draw([0] * work.batch, work.image_shape, work.latent_shape))
    embeds, image_latents = jax.eval_shape(encode, *encode_program(work).args)
    ids = jax.eval_shape(lambda: jnp.broadcast_to(added_time_ids(7, 127, 0.02), (work.batch, 3)))
    conditioning = Conditioning(embeds, image_latents, ids)
    guide = jax.eval_shape(lambda: guide_of(settings, work.directions, dtype))
    at = jax.eval_shape(lambda: evaluations_of(plan, dtype, 0, 1))
    latents = jax.ShapeDtypeStruct(draws.initial.shape, dtype)
    if passes == "together":
        args = unet, backward, latents, at, conditioning, guide, draws
        static = {"renoises": plan.recurrences > 0, "trajectory": False}
        return [Program(name="step", fn=scan, args=args, static=static)], 0
    prepare = functools.partial(unet_calls.prepare, renoises=plan.recurrences > 0, guided=work.guided)
    latents, clips = jax.eval_shape(prepare, latents, at, conditioning, draws)
    held = latents, clips, conditioning, draws, clips.sample  # the last: upper bound of the predictions, half as large
    held_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))

    def part(directions: slice) -> Any:
        return jax.eval_shape(lambda clips: clips.some(directions, slice(0, 1)), clips)

    if passes == "guidance" or work.directions == 1:
        return [Program(name="half_step", fn=unet_calls.half, args=(unet, backward, part(slice(work.directions))))], held_bytes
    args = unet, backward, part(slice(0, 1))
    maps = jax.eval_shape(unet_calls.forward_clip, *args)[1]
    return [
        Program(name="forward_clip", fn=unet_calls.forward_clip, args=args),
        Program(name="backward_clip", fn=unet_calls.backward_clip, args=(unet, backward, part(slice(1, 2)), maps)),
    ], held_bytes


class Phases:
    """Phases of a batch of clips for each choice of the plan; programs are compiled when their memory is first needed."""

    def __init__(self, work: ClipWork, compile: Compile):
        self._work = work
        self._compile = compile
        self._memory: dict[Any, list[tuple[str, int, int]]] = {}
        self._decoding: dict[DecodePlan, Phase] = {}
        model = work.shapes
        self._unet = bytes_of(model.unet) + bytes_of(model.backward)
        self._clip, self._vae = bytes_of(model.image_encoder), bytes_of(model.vae)
        self._encoder, self._decoder = _part_bytes(model, ENCODER), _part_bytes(model, DECODER)

    def encode(self, _: bool, offload: bool) -> Phase:
        return self._phase("encode", "encode", offload, self._clip + self._encoder, lambda: ([encode_program(self._work)], 0))

    def sample(self, passes: str, offload: bool) -> Phase:
        return self._phase(passes, "sample", offload, self._unet, lambda: sample_programs(self._work, passes))

    def least_sample(self, passes: str, offload: bool) -> int:
        """Lower bound of the memory that `sample` needs, without compiling."""
        work = self._work
        f, h, w, _ = work.latent_shape
        together = 1 if passes == "clips" else work.directions * (1 if passes == "guidance" else 1 + work.guided)
        activation = work.batch * f * h * w * work.model.config.unet.block_out_channels[0] * work.shapes.unet.dtype.itemsize
        count = LEAST_ACTIVATIONS_ON_CPU if self._compile is compile_here and target().is_cpu else LEAST_ACTIVATIONS
        return self._weights(offload, self._unet) + count * together * activation

    def decode_plans(self) -> list[DecodePlan]:
        return staged_decode.candidates(self._work.model.config.vae, self._decoded, self._work.vae_dtype)

    def decode(self, plan: DecodePlan, offload: bool) -> Phase:
        if plan not in self._decoding:
            self._decoding[plan] = self._decode(plan, self._compile)
        return self._with_others(self._decoding[plan], offload)

    def least_decode(self, plan: DecodePlan, offload: bool) -> int:
        """Lower bound of the memory that `decode` needs, without compiling."""
        least = staged_decode.least_bytes(self._work.model.config.vae, self._decoded, self._work.vae_dtype, plan)
        return least + self._weights(offload, self._decoder) - self._decoder

    def _decode(self, plan: DecodePlan, compile: Compile) -> Phase:
        return staged_decode.phase(self._work.model.config.vae, self._decoded, self._work.vae_dtype, plan, compile)

    def _with_others(self, phase: Phase, offload: bool) -> Phase:
        """A phase of the decoder, with the other weights that are on the device."""
        others = self._weights(offload, self._decoder) - self._decoder
        return dataclasses.replace(phase, resident_bytes=phase.resident_bytes + others)

    def transfer_bytes(self, plan: DecodePlan, offload: bool) -> int:
        """Bytes of weights, if they are kept in host memory, and of the decoder's activations."""
        weights = self._clip + self._encoder + self._unet + self._decoder if offload else 0
        groups = -(-self._work.settings.num_frames // self._decoded[1])
        config, dtype = self._work.model.config.vae, self._work.vae_dtype
        return weights + groups * staged_decode.transfer_bytes(config, self._decoded, dtype, plan)

    @property
    def _decoded(self) -> tuple[int, int, int, int, int]:
        """Shape of the latents that are decoded together."""
        f, *latent = self._work.latent_shape
        height, width, channels = latent
        return self._work.batch, min(f, self._work.decode_chunk or f), height, width, channels

    def _weights(self, offload: bool, used: int) -> int:
        return used if offload else self._unet + self._clip + self._vae

    def _phase(self, key: Any, name: str, offload: bool, used: int, make: Callable[[], tuple[list[Program], int]]) -> Phase:
        if key not in self._memory:
            programs, held = make()
            self._memory[key] = [self._needs(program, held) for program in programs]
        weights = self._weights(offload, used)
        program, others, scratch = max(self._memory[key], key=lambda needs: needs[1] + needs[2])
        return Phase(name=name, resident_bytes=weights + others, scratch_bytes=scratch, program=program)

    def _needs(self, program: Program, held: int) -> tuple[str, int, int]:
        """Name, bytes on the device besides weights (arguments and `held`), bytes of scratch and results."""
        memory = self._compile(program)
        others = bytes_of([x for x in program.args if not isinstance(x, (nnx.Module, Backward))])
        return program.name, others + held, memory.scratch_bytes + memory.result_bytes


def _part_bytes(model: SVD, prefixes: tuple[str, ...]) -> int:
    return bytes_of([x for name, x in leaves(model.vae).items() if name.startswith(prefixes)])
