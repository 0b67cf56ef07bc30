"""Load the model of a sampling command according to the plan for its clips."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from svdjax.checkpoints.orbax_trees import in_host_memory
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.model_sources import ModelSource, trained_kinds_of
from svdjax.models.svd import SVD, abstract_model
from svdjax.runtime.memory_option import OPTION
from svdjax.sampling.clip_plan import ClipPlan, plan_clips, plan_decoding
from svdjax.sampling.clip_work import ClipWork
from svdjax.sampling.draws import Draws
from svdjax.sampling.methods import Method
from svdjax.sampling.settings import Settings

Size = tuple[int, int]


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
) -> tuple[SVD, dict[Size, ClipPlan | None]]:
    """Plan the clips of a run, print the plan, and load the model as the plan requires.

    Args:
        source: the model on disk.
        dtype: dtype of the computation.
        memory: bytes of the device that the run may use; None for no plan.
        settings: of a clip.
        sizes: (width, height) of the clips.
        backward: folder of backward weights to use instead of the model's own.
        method, batch, decode_chunk, draws: see `ClipWork`.

    Returns:
        The model, and the plan for each size.

    Raises:
        InputError: nothing fits, before anything is loaded.
    """
    sizes = list(dict.fromkeys(sizes))
    if memory is None:
        return source.load(dtype=dtype, backward=backward), dict.fromkeys(sizes)
    print("planning within the memory: compiling programs", flush=True)
    kinds: Collection[str] | None = source.trained_kinds() if backward is None else trained_kinds_of(backward)
    model = abstract_model(source.config, dtype, kinds)
    options = {"method": method, "batch": batch, "decode_chunk": decode_chunk, "draws": draws}
    works = [ClipWork(model=model, size=size, settings=settings, **options) for size in sizes]
    plans = [plan_clips(work, memory, name=OPTION) for work in works]
    offload = any(plan.offload for plan in plans)
    if offload:  # the same for all: the model is loaded once
        plans = [plan_clips(work, memory, name=OPTION, offload=(True,)) for work in works]
    for size, plan in zip(sizes, plans, strict=True):
        print(*([f"{size[0]}x{size[1]}:"] if len(sizes) > 1 else []), *plan.describe(), sep="\n", flush=True)
    shardings = in_host_memory if offload else None
    return source.load(dtype=dtype, backward=backward, shardings=shardings), dict(zip(sizes, plans, strict=True))


def load_for_decoding(
    source: ModelSource, dtype: str, memory: int | None, settings: Settings, size: Size
) -> tuple[SVD, DecodePlan | None]:
    """Load a model to encode and decode; for the arguments see `load`. With a plan, its weights are kept in host memory."""
    if memory is None:
        return source.load(dtype=dtype), None
    work = ClipWork(model=abstract_model(source.config, dtype, None), size=size, settings=settings, method="forward")
    plan = plan_decoding(work, memory, name=OPTION)
    return source.load(dtype=dtype, shardings=in_host_memory), plan
