"""A complete training run: check the options, scan the data, lock the folder, build, restore, train."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.data import report, scan_records
from svdjax.data.clip_order import Order
from svdjax.data.scan import ScanResult, scan
from svdjax.data.scan_records import ScanRecords
from svdjax.data.sources import DataSettings, check_outside_data
from svdjax.errors import InputError
from svdjax.media import fit
from svdjax.parallel import cluster, mesh
from svdjax.parallel.main_process import on_main, say
from svdjax.runtime.atomic import require_space
from svdjax.runtime.dtypes import compute_dtype
from train.batches.latent_cache import check_cache_folder
from train.batches.loader import Batch
from train.options.shared import RunOptions
from train.run import complete_checkpoints, loop, run_folder
from train.run.checkpoints import Checkpoints
from train.run.complete_checkpoints import CompleteCheckpoint
from train.run.loop import RunPlan, Task
from train.run.prepared_folder import prepared
from train.steps.state import State, to_arrays
from train.steps.step import Step

MEMORY_ADVICE = (
    "try --memory with a smaller number (train.backward), --accumulate, --mesh fsdp=-1, a smaller --size, fewer --num-frames, "
    "or --crop for a VAE"
)

Batches = AbstractContextManager[Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings derived from the options and the model's configuration, before weights are loaded.

    Attributes:
        data: how clips are taken from the data.
        sources: the sources found in the data.
        devices: the mesh.
        batch_size: clips per step, over all devices.
        dtype: dtype of frozen weights and computation.
        resumed: whether the folder holds a run, which is continued.
        records: of the scan; those of process 0 are stored.
    """

    data: DataSettings
    sources: ScanResult
    devices: Mesh
    batch_size: int
    dtype: str
    resumed: bool
    records: ScanRecords = dataclasses.field(default_factory=ScanRecords)


@dataclass(frozen=True)
class Work:
    """The parts of a run that depend on the command.

    Attributes:
        step: the training step.
        batches: maps a step to the batches from this step on.
        export: writes the model of a state to the run's folder.
        validate: writes a validation clip of a state, or None.
    """

    step: Step
    batches: Callable[[int], Batches]
    export: Callable[[State], None]
    validate: Callable[[State], None] | None


def set_up(options: RunOptions, config: SVDConfig) -> Setup:
    """Check the options against the model's configuration and the devices, then read the data.

    Raises:
        InputError: the clips, the batch or the folder can't be used.
    """
    size = fit.parse_size(options.size) if options.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    data = DataSettings(
        folder=options.data,
        num_frames=config.unet.num_frames if options.num_frames is None else options.num_frames,
        size=size,
        stride=options.stride,
        fit=options.fit,
        min_motion=options.min_motion,
        hold_out=options.held_out,
        clips=options.clips,
    )
    devices = mesh.make_mesh(options.mesh)
    batch_size = options.batch_size or options.accumulate * devices.shape["data"] * devices.shape["fsdp"]
    mesh.check_batch(batch_size, options.accumulate, devices)
    check_outside_data(options.out, options.data)
    resumed = on_main(lambda: run_folder.check_new_or_resumed(options.out, options.resume))
    if options.cache_latents is not None:
        on_main(functools.partial(check_cache_folder, options.cache_latents))
    if options.resume and not resumed:
        say(f"{options.out}: no run to resume, starting a new one")
    dtype = compute_dtype(options.dtype)
    where = mesh.describe(devices, batch_size, cluster.host_names())
    say(f"{where}, {data.num_frames} frames of {size[0]}x{size[1]}, {dtype}")
    records = scan_records.read(options.out / run_folder.SCAN) if cluster.is_main() else ScanRecords()
    found = on_main(lambda: scan(data, options.workers, records=records).to_json())
    sources = ScanResult.from_json(found, options.data)
    if options.validate_every and not sources.held_out:
        raise InputError(f"{options.data}: no source is left to hold out for --validate-every")
    return Setup(
        data=data, sources=sources, devices=devices, batch_size=batch_size, dtype=dtype, resumed=resumed, records=records
    )


def identity(options: RunOptions, setup: Setup) -> dict[str, Any]:
    """Shared settings that determine a run's results. A resumed run must have the same; mesh and `--accumulate` may differ."""
    data = setup.data
    return {
        "--clips": options.clips,
        "set of clips (--data, --hold-out, --min-motion)": setup.sources.fingerprint,
        "--num-frames": data.num_frames,
        "--size": "x".join(map(str, data.size)),
        "--fit": data.fit,
        "--stride": data.stride,
        "--batch-size": setup.batch_size,
        "--learning-rate": options.learning_rate,
        "--seed": options.seed,
        "--dtype": setup.dtype,
    }


def train(
    options: RunOptions,
    setup: Setup,
    settings: Mapping[str, Any],
    build: Callable[[Order], Work],
    shapes: Callable[[Order], State],
    sources: Mapping[str, str],
) -> None:
    """Train from the first step, or from the last checkpoint, to the last step.

    Args:
        options, setup: options and setup of the run.
        settings: everything that determines the run's results.
        build: loads the model and makes the step, which takes long.
        shapes: makes a state of shapes and dtypes, which takes seconds.
        sources: hashes of the starting model's files, stored with every checkpoint.
    """
    with prepared(options.out, settings, setup.sources, setup.records, resumed=setup.resumed):
        for line in report.summary(setup.sources, setup.data):
            say(line)
        order = Order(setup.sources.usable, setup.data, options.seed)
        _check_what_is_left(options, shapes(order))
        work = build(order)
        task = Task(
            update=work.step.update,
            export=work.export,
            validate=work.validate,
            clip_name=lambda step, row: order.clip((step - 1) * setup.batch_size + row).name,
        )
        plan = RunPlan(
            out=options.out,
            steps=options.steps,
            batch_size=setup.batch_size,
            save_every=options.save_every,
            validate_every=options.validate_every,
            facts={
                "mesh": dict(setup.devices.shape),
                "settings": dict(settings),
                "options": options.as_text(),
                "sources": dict(sources),
            },
        )
        checkpoint = _last_checkpoint(options, work.step, settings) if setup.resumed else None
        with Checkpoints(options.out / run_folder.CHECKPOINTS, options.keep) as checkpoints:
            state = _first_state(work.step) if checkpoint is None else _restored(work.step, checkpoints, checkpoint)
            with work.batches(int(state.step) + 1) as batches:
                loop.run(task, plan, state, batches, checkpoints)


def _first_state(step: Step) -> State:
    """The state before the first step; `step` no longer holds it, because the steps reuse its memory."""
    state = step.state
    del step.state
    return state


def _restored(step: Step, checkpoints: Checkpoints, checkpoint: CompleteCheckpoint) -> State:
    """The state of a checkpoint, placed on the devices after that before the first step is gone."""
    del step.state
    return checkpoints.restore(checkpoint, step.abstract_state)


def _check_what_is_left(options: RunOptions, state: State) -> None:
    """Check `--steps` and the disk space for the checkpoints that are still to come.

    Args:
        options: the command line.
        state: shapes and dtypes of the state.

    Raises:
        InputError: the run has more steps already, or there is too little space.
    """

    def check() -> None:
        saved = complete_checkpoints.saved_steps(options.out / run_folder.CHECKPOINTS)
        done, steps, every = max(saved, default=0), options.steps, options.save_every
        if done > steps:
            raise InputError(f"--steps {steps}: {options.out} is at step {done}, expected at least {done}")
        saves = 0 if done == steps else math.ceil(steps / every) - done // every
        most = options.keep + 2  # the latest, the best, and the one that is being written
        size = sum(math.prod(array.shape) * array.dtype.itemsize for array in to_arrays(state).values())
        require_space(options.out, size * min(saves, max(most - len(saved), 1)), options.out)

    on_main(check)


def _last_checkpoint(options: RunOptions, step: Step, settings: Mapping[str, Any]) -> CompleteCheckpoint | None:
    """The checkpoint to resume from, or None if none was saved; prints its step."""
    folder = options.out / run_folder.CHECKPOINTS

    def find() -> dict[str, Any] | None:
        newest = complete_checkpoints.newest_complete(folder, to_arrays(step.abstract_state))
        return None if newest is None else dataclasses.asdict(newest)

    newest = on_main(find)
    if newest is None:
        say("no checkpoint was saved yet: starting again from step 1")
        return None
    checkpoint = CompleteCheckpoint(**newest)
    for note in checkpoint.notes:
        say(note)
    where = folder / str(checkpoint.step)
    run_folder.check_same_settings(checkpoint.facts["settings"], settings, where, checkpoint.step)
    mesh_then = ",".join(f"{axis}={size}" for axis, size in checkpoint.facts["mesh"].items())
    say(f"resuming after step {checkpoint.step} of {options.steps}, saved on mesh {mesh_then}")
    return checkpoint
