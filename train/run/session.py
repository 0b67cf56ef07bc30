"""The course of a run that all commands of training share: options checked, data read, the folder held, the loop run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.data import report
from svdjax.data.clip_order import Order
from svdjax.data.scan import Found, scan
from svdjax.data.sources import DataSettings, check_apart
from svdjax.errors import InputError
from svdjax.media import fit
from svdjax.parallel import cluster, mesh
from svdjax.parallel.main_process import on_main, say
from svdjax.runtime import compilation_cache, malloc, xla_options
from train.batches.loader import Batch, Loader
from train.options.shared import Options
from train.run import run_folder, whole_checkpoints
from train.run.checkpoints import Checkpoints
from train.run.loop import Plan, Task, run
from train.run.whole_checkpoints import Whole
from train.steps.state import to_arrays
from train.steps.step import Step

_SMALL = 2**30  # bytes of a model whose steps are so short that taking their memory from the system is much of their time

Batches = AbstractContextManager[Iterable[Batch]]


@dataclass(frozen=True)
class Setup:
    """What follows from the options before anything is loaded.

    Attributes:
        data: which clips are made of the data.
        found: the data's sources.
        devices: the mesh.
        batch: clips of a step, over all devices.
        dtype: of frozen weights and computation.
        continued: whether the folder holds a run that goes on.
    """

    data: DataSettings
    found: Found
    devices: Mesh
    batch: int
    dtype: str
    continued: bool


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        step: of one kind.
        task: what the loop does with it.
        batches: from a step on; the videos are read if it is left out.
    """

    step: Step
    task: Task
    batches: Callable[[int], Batches] | None = None


def begin(given: Options, model: Path | None) -> None:
    """What comes before everything else: this process joins the others.

    Args:
        given: the options.
        model: the checkpoint that is to be trained, None for a new one.
    """
    xla_options.spare_threads()
    if model is None or _size(model) < _SMALL:
        malloc.keep_freed()
    cluster.start(given.coordinator, given.num_processes, given.process_id)
    compilation_cache.enable()


def _size(folder: Path) -> int:
    """Bytes of a checkpoint; 0 where there is none, which is told later."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def set_up(given: Options, config: SVDConfig, check: Callable[[], None] = lambda: None) -> Setup:
    """Check all that can be checked quickly, then read the data.

    Args:
        given: the options.
        config: of the model.
        check: what else to check, once size and batch are known to be possible.
    """
    size = fit.parse_size(given.size) if given.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    frames = config.unet.num_frames if given.num_frames is None else given.num_frames
    data = DataSettings(given.data, frames, size, given.stride, given.fit, given.min_motion, given.held_out, given.clips)
    devices = mesh.make_mesh(given.mesh)
    batch = given.batch_size or given.accumulate * devices.shape["data"] * devices.shape["fsdp"]
    mesh.check_batch(batch, given.accumulate, devices)
    check()
    check_apart(given.out, given.data)
    continued = on_main(lambda: run_folder.check_new_or_continued(given.out, given.resume))
    if given.resume and not continued:
        say(f"{given.out}: there is no run to resume, so one begins")
    dtype = given.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    say(f"{mesh.describe(devices, batch, cluster.host_names())}, {frames} frames of {size[0]}x{size[1]}, {dtype}")
    found = Found.from_json(on_main(lambda: scan(data, given.workers).to_json()), given.data)
    if given.validate_every and not found.held_out:
        raise InputError(f"{given.data}: nothing is left to hold out for --validate-every")
    return Setup(data, found, devices, batch, dtype, continued)


def identity(given: Options, setup: Setup) -> dict[str, Any]:
    """The shared settings that fix a run's numbers; a resume must have the same. Neither the mesh nor `--accumulate` is one."""
    data = setup.data
    return {
        "--clips": given.clips,
        "set of clips (--data, --hold-out, --min-motion)": setup.found.fingerprint,
        "--num-frames": data.num_frames,
        "--size": "x".join(map(str, data.size)),
        "--fit": data.fit,
        "--stride": data.stride,
        "--batch-size": setup.batch,
        "--learning-rate": given.learning_rate,
        "--seed": given.seed,
        "--dtype": setup.dtype,
    }


def carry_out(
    given: Options,
    setup: Setup,
    settings: Mapping[str, Any],
    build: Callable[[Order], Work],
    facts: Mapping[str, Any],
) -> None:
    """The run, from its beginning or its last checkpoint.

    Args:
        given, setup: of the run.
        settings: all that fix its numbers.
        build: loads the model and makes the step, which is the long work.
        facts: to be kept with every checkpoint.
    """
    with contextlib.ExitStack() as stack:
        on_main(lambda: _begin_folder(given.out, setup, settings, stack))
        for line in report.report(setup.found, setup.data):
            say(line)
        order = Order(setup.found.usable, setup.data, given.seed)
        work = build(order)
        step = work.step
        facts = {"mesh": dict(setup.devices.shape), "settings": dict(settings), "options": given.as_text(), **facts}
        plan = Plan(given.out, given.steps, setup.batch, given.save_every, given.validate_every, facts)
        task = dataclasses.replace(work.task, clip_name=lambda number, row: order.clip((number - 1) * setup.batch + row).name)
        whole = _last_whole(given, step, settings) if setup.continued else None
        checkpoints = stack.enter_context(Checkpoints(given.out / "checkpoints", given.keep))
        state = step.state if whole is None else checkpoints.restore(whole, step.abstract_state)
        first = int(state.step) + 1
        batches = work.batches(first) if work.batches else Loader(order, setup.batch, step.rows, first, workers=given.workers)
        run(task, plan, state, stack.enter_context(batches), checkpoints)


def _begin_folder(out: Path, setup: Setup, settings: Mapping[str, Any], stack: contextlib.ExitStack) -> None:
    """Make the run's folder, or hold the one that is there against this run; it is locked until the stack is left."""
    if not setup.continued:
        run_folder.make(out)
    stack.enter_context(run_folder.locked(out))
    before = run_folder.read(out)
    if before is None:
        run_folder.write(out, settings)
    elif not setup.continued:
        raise InputError(f"{out}: another process began a run there just now")
    else:
        run_folder.check_same(before, settings, out)
    report.write_csv(setup.found, out / "data.csv")


def _last_whole(given: Options, step: Step, settings: Mapping[str, Any]) -> Whole | None:
    """The checkpoint to go on from, None where none was saved; both said."""
    folder = given.out / "checkpoints"

    def find() -> dict[str, Any] | None:
        found = whole_checkpoints.newest(folder, to_arrays(step.abstract_state))
        return None if found is None else dataclasses.asdict(found)

    found = on_main(find)
    if found is None:
        say("no checkpoint was saved yet: beginning again")
        return None
    whole = Whole(**found)
    for note in whole.notes:
        say(note)
    run_folder.check_same(whole.facts["settings"], settings, folder / str(whole.step))
    if whole.step > given.steps:
        raise InputError(f"--steps {given.steps}: the run in {given.out} is at step {whole.step}, expected at least that")
    mesh_then = ",".join(f"{axis}={size}" for axis, size in whole.facts["mesh"].items())
    say(f"going on after step {whole.step} of {given.steps}, saved on mesh {mesh_then}")
    return whole


@contextlib.contextmanager
def one_line_for_memory() -> Iterator[None]:
    """A device out of memory within becomes one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(
            "the device ran out of memory: try --accumulate, --mesh fsdp=-1, a smaller --size, fewer --num-frames, "
            "or --crop for a VAE"
        ) from None
