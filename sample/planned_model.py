"""Load the model of a sampling command according to the plan for its clips."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from svdjax.checkpoints.orbax_trees import in_host_memory
from svdjax.config import SVDConfig
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.errors import InputError
from svdjax.kernels.choice import PALLAS
from svdjax.memory.programs import bytes_of
from svdjax.model_sources import ModelSource, trained_kinds_of
from svdjax.models.svd import NETWORKS, SVD, abstract_model, leaves
from svdjax.parallel import cluster, divided, sampling_mesh
from svdjax.parallel.mesh import describe as mesh_in_words
from svdjax.parallel.sampling_mesh import Frames, clips_together
from svdjax.runtime import memory_option
from svdjax.runtime.dtypes import compute_dtype
from svdjax.runtime.memory_option import OPTION
from svdjax.sampling.clip_plan import ClipPlan, plan_clips, plan_decoding
from svdjax.sampling.clip_work import ClipWork
from svdjax.sampling.draws import Draws
from svdjax.sampling.methods import Method
from svdjax.sampling.runs import Run
from svdjax.sampling.settings import Settings

Size = tuple[int, int]
Shape = tuple[int, int, int]  # (width, height, frames) of a clip
# Scratch without a plan, from SVD-XT's programs for an H200, 25 frames of 1024x576 on 1 to 16 devices: a step needs at most
# this number of activations of the first level; decoding in float32 an activation of the last level, and this.
STEP_ACTIVATIONS = 19
DECODE_BYTES = 3 * 2**30
Key = TypeVar("Key", bound=Hashable)


def load(
    source: ModelSource,
    dtype: str,
    memory: int | None,
    settings: Settings,
    sizes: Iterable[Size],
    *,
    backward: Path | None = None,
    method: str | Method = "dual",
    batch: int = 1,
    decode_chunk: int | None = None,
    draws: Draws | None = None,
    preview: bool = False,
    rate: int = 1,
    mesh: Mesh | None = None,
) -> tuple[SVD, dict[Size, ClipPlan | None]]:
    """Plan the clips of a run, print the plan, and load the model as the plan requires.

    Args:
        source: the model on disk.
        dtype: dtype of the computation.
        memory: bytes of the device that the run may use; None for no plan.
        settings: of a clip.
        sizes: (width, height) of the clips.
        backward: folder of backward weights to use instead of the model's own.
        method, batch, decode_chunk, draws, preview, rate: see `ClipWork`.
        mesh: see `load_for_works`.

    Returns:
        The model, and the plan for each size.

    Raises:
        InputError: nothing fits, before anything is loaded.
    """
    work = {"settings": settings, "method": method, "batch": batch, "decode_chunk": decode_chunk, "draws": draws}
    works = {size: {"size": size, "preview": preview, "rate": rate, **work} for size in dict.fromkeys(sizes)}
    return load_for_works(source, dtype, memory, works, backward=backward, mesh=mesh)


def load_for_works(
    source: ModelSource,
    dtype: str,
    memory: int | None,
    works: Mapping[Key, Mapping[str, Any]],
    *,
    backward: Path | None = None,
    mesh: Mesh | None = None,
) -> tuple[SVD, dict[Key, ClipPlan | None]]:
    """Load the model for different kinds of clips.

    Args:
        source, dtype, memory, backward: see `load`.
        works: the fields of `ClipWork` without the model, for each kind of clips.
        mesh: devices to divide the clips over, from `choose_mesh`; there is no plan then. None for one device.

    Returns:
        The model, and the plan for each kind.

    Raises:
        InputError: nothing fits, before anything is loaded.
    """
    if mesh is not None:
        divided.connect(mesh)
    if memory is None or mesh is not None:
        shardings = None if mesh is None else sampling_mesh.shardings(mesh)
        return source.load(dtype=dtype, backward=backward, shardings=shardings), dict.fromkeys(works)
    print("planning within the memory: compiling programs", flush=True)
    kinds: Collection[str] | None = source.trained_kinds() if backward is None else trained_kinds_of(backward)
    model = abstract_model(source.config, dtype, kinds)
    clips = [ClipWork(model=model, **fields) for fields in works.values()]
    plans = [plan_clips(work, memory, name=OPTION) for work in clips]
    offload = any(plan.offload for plan in plans)
    if offload:  # the same for all: the model is loaded once
        plans = [plan_clips(work, memory, name=OPTION, offload=(True,)) for work in clips]
    for work, plan in zip(clips, plans, strict=True):
        width, height = work.size
        frames = f"{work.settings.num_frames} frames of {width}x{height}:"
        print(*([frames] if len(works) > 1 else []), *plan.describe(), sep="\n", flush=True)
    shardings = in_host_memory if offload else None
    return source.load(dtype=dtype, backward=backward, shardings=shardings), dict(zip(works, plans, strict=True))


def choose_mesh(
    args: argparse.Namespace,
    config: SVDConfig,
    runs: Iterable[Run],
    shapes: Iterable[Shape],
    clips: int,
) -> Mesh | None:
    """The mesh of a run, from `--mesh` or by default; None for one device. Starts JAX.

    It is on the devices of all connected processes.

    Args:
        args: with the options of `sampling_options.add_sampling`.
        config: of the model.
        runs: of the methods.
        shapes: (width, height, frames) of the clips.
        clips: number of clips that may be sampled together.

    Raises:
        InputError: a wrong mesh, or one for which there is no plan or kernel; connected processes that can't all take part.
    """
    guided = any(kind.unconditional for run in runs for kind in run.kinds)
    shapes = tuple(dict.fromkeys(shapes))
    sizes = tuple(dict.fromkeys((width, height) for width, height, _ in shapes))
    frames = Frames(pairs=clips, guided=guided, sizes=sizes, pixels=config.size_multiple)
    if args.mesh is None:
        mesh = _default_mesh(args, config, frames, max(map(math.prod, shapes)))
        processes = range(jax.process_count())
        if len(processes) > 1 and (mesh is None or {device.process_index for device in mesh.devices.flat} != {*processes}):
            raise InputError(
                f"{len(processes)} processes: no division of a clip over all their devices fits its size and their memory, "
                "expected fewer processes, or --mesh; --memory and --kernels pallas are for one device"
            )
        return mesh

    mesh = sampling_mesh.sampling_mesh(args.mesh, sampling_mesh.all_devices())
    sampling_mesh.check_frames(mesh, frames)
    if mesh.size > 1 and args.memory is not None:
        raise InputError(f"--mesh {args.mesh}: a plan within --memory is for one device, expected only one of them")
    if mesh.size > 1 and args.kernels == PALLAS:
        raise InputError(f"--mesh {args.mesh}: --kernels pallas runs on one device, expected only one of them")
    return mesh if mesh.size > 1 else None


def _default_mesh(args: argparse.Namespace, config: SVDConfig, frames: Frames, pixels: int) -> Mesh | None:
    """The mesh without `--mesh` on the devices of all connected processes.

    Args:
        args, config: see `choose_mesh`.
        frames: the clips.
        pixels: of all frames of the largest clip.
    """
    if args.memory is not None or args.kernels == PALLAS:
        return None
    devices = sampling_mesh.all_devices()
    one_by_one = dataclasses.replace(frames, pairs=1)  # each device has less of a clip
    meshes = (mesh for each in (frames, one_by_one) if (mesh := sampling_mesh.default_mesh(each, devices)) is not None)
    return next((mesh for mesh in meshes if _fits(args, config, pixels, mesh)), None)


def _fits(args: argparse.Namespace, config: SVDConfig, pixels: int, mesh: Mesh) -> bool:
    """Whether a clip on a mesh is expected to fit in each device's memory without a plan; otherwise one device has a plan.

    For the arguments see `_default_mesh`.
    """
    budget = memory_option.start(None)
    if budget is None:
        return True
    networks, unet, vae = _network_bytes(config, compute_dtype(args.dtype))
    parts = mesh.size // clips_together(mesh, 1)
    # two directions, with and without conditioning
    step = STEP_ACTIVATIONS * 4 / parts * pixels / config.vae.down_factor**2 * config.unet.block_out_channels[0] * unet
    decode = pixels * config.vae.block_out_channels[0] * vae / parts + DECODE_BYTES
    return networks + max(step, decode) <= budget


@functools.cache
def _network_bytes(config: SVDConfig, dtype: str) -> tuple[int, int, int]:
    """Bytes of all weights, and of a number in the UNet and in the VAE."""
    model = abstract_model(config, dtype)
    networks = {name: leaves(getattr(model, name)) for name in NETWORKS}
    unet, vae = (next(iter(networks[name].values())).dtype.itemsize for name in ("unet", "vae"))
    return bytes_of(networks), unet, vae


def describe(mesh: Mesh | None) -> str:
    """The devices of a run, such as `1 host, 8 devices (NVIDIA H200), mesh guidance=2 columns=4`.

    All connected processes must call this.
    """
    return str(jax.devices()[0]) if mesh is None else mesh_in_words(mesh, hosts=cluster.host_names())


def load_for_decoding(
    source: ModelSource, dtype: str, memory: int | None, settings: Settings, size: Size
) -> tuple[SVD, DecodePlan | None]:
    """Load a model to encode and decode; for the arguments see `load`. With a plan, its weights are kept in host memory."""
    if memory is None:
        return source.load(dtype=dtype), None
    work = ClipWork(model=abstract_model(source.config, dtype, None), size=size, settings=settings, method="forward")
    plan = plan_decoding(work, memory, name=OPTION)
    return source.load(dtype=dtype, shardings=in_host_memory), plan
