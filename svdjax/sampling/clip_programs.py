"""Memory of the phases of a clip: its programs are compiled before a model is loaded, and used afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from svdjax.decoding import staged_decode
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.devices.target import target
from svdjax.memory.programs import Compile, Phase, Program, bytes_of, compile_here
from svdjax.models.backward import Backward
from svdjax.models.svd import DECODER, ENCODER, SVD, leaves
from svdjax.sampling.clip_work import ClipWork, encode_program, sample_programs

# A UNet call needs more scratch than this number of its first level's activations. SVD-XT's programs for GPUs needed 13 to 19,
# because a feed-forward's hidden values take 8 where they are undivided; with Pallas kernels they needed 10. Programs that
# can't fit are not compiled.
LEAST_ACTIVATIONS, LEAST_ACTIVATIONS_ON_CPU = 8, 3


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
        together = 1 if passes == "clips" else work.together if passes == "guidance" else work.most_clips
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
