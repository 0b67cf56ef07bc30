"""`python -m train.backward`: fine-tune the backward direction on a folder of clips, on one device or many hosts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from svdjax import checkpoint, cli, compilation_cache, delta, finetune, fit, mesh, sharding
from svdjax.errors import InputError
from svdjax.initialize import abstract
from svdjax.model import SVD, leaves
from svdjax.overlay import QUERIES, VALUES
from svdjax.settings import Settings
from svdjax.unet import UNet
from train import data_report, hosts, options, run_folder, validation, whole_checkpoints
from train.checkpoints import Checkpoints
from train.finetuning import Finetuning, How
from train.latent_cache import LatentCache
from train.loader import CachedLoader, Loader
from train.loop import Plan, Task, run
from train.options import Options
from train.order import Order
from train.scan import Found, scan
from train.sources import DataSettings, fingerprint
from train.state import State, to_arrays
from train.together import leave, on_main, say
from train.whole_checkpoints import Whole


def train(given: Options) -> None:
    """A whole run, or what is left of it."""
    hosts.start(given.coordinator, given.num_processes, given.process_id)
    compilation_cache.enable()
    info = checkpoint.read_info(given.model)
    names = finetune.trained_names(leaves(abstract(UNet, info.config.unet, jnp.float32)))
    if not names:
        raise InputError(f"{given.model}: its UNet has no temporal self-attention, which is what is trained")
    size = fit.parse_size(given.size) if given.size else info.config.default_size
    fit.check_size(*size, info.config.size_multiple)
    frames = info.config.unet.num_frames if given.num_frames is None else given.num_frames
    data = DataSettings(given.data, frames, size, given.stride, given.fit, given.min_motion, given.held_out)
    devices = mesh.make_mesh(given.mesh)
    batch = given.batch_size or given.accumulate * devices.shape["data"] * devices.shape["fsdp"]
    mesh.check_batch(batch, given.accumulate, devices)
    if given.init is not None:
        delta.check(given.init, leaves(abstract(UNet, info.config.unet, jnp.float32)))
    run_folder.check_apart(given.out, given.data)
    continued = on_main(lambda: run_folder.check_new_or_continued(given.out, given.resume))
    if given.resume and not continued:
        say(f"{given.out}: there is no run to resume, so one begins")
    dtype = given.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    say(f"{mesh.describe(devices, batch, hosts.host_names())}, {frames} frames of {size[0]}x{size[1]}, {dtype}")

    found = Found.from_json(on_main(lambda: scan(data, given.workers).to_json()), given.data)
    if given.validate_every and not found.held_out:
        raise InputError(f"{given.data}: nothing is left to hold out for --validate-every")
    settings = identity(given, info, data, batch, dtype, found)
    with contextlib.ExitStack() as stack:
        on_main(lambda: begin_folder(given, continued, settings, found, stack))
        for line in data_report.report(found, data):
            say(line)

        model = checkpoint.load(given.model, dtype=dtype, shardings=sharding.shardings(devices))
        base, start = starting_tensors(given, sharding.shardings(devices))
        how = How(
            batch, frames, size, given.seed, given.learning_rate, given.accumulate, not given.no_rotation, not given.no_remat
        )
        step = Finetuning(model, devices, how, start)
        order = Order(found.usable, data, given.seed)
        facts = {"mesh": dict(devices.shape), "settings": settings, "sources": info.sources, "options": given.as_text()}
        plan = Plan(given.out, given.steps, batch, given.save_every, given.validate_every, facts)
        task = Task(
            update=step.update,
            clip_name=lambda number, row: order.clip((number - 1) * batch + row).name,
            export=lambda state: export(given, info, step, base, state),
            validate=validation_of(given, found, data, model, step) if given.validate_every else None,
        )
        whole = last_whole(given, step, settings) if continued else None
        checkpoints = stack.enter_context(Checkpoints(given.out / "checkpoints", given.keep))
        state = step.state if whole is None else checkpoints.restore(whole, step.abstract_state)
        run(task, plan, state, stack.enter_context(batches(given, info, data, order, step, int(state.step) + 1)), checkpoints)


def identity(given: Options, info: checkpoint.Info, data: DataSettings, batch: int, dtype: str, found: Found) -> dict[str, Any]:
    """The settings that fix a run's numbers; a resume must have the same. The mesh and `--accumulate` are not among them."""
    return {
        "model (--model)": fingerprint([info.sources, info.config.to_json(), info.dtype]),
        "set of clips (--data, --hold-out, --min-motion)": found.fingerprint,
        "start (--init)": None if given.init is None else fingerprint(delta.read_backward_info(given.init)),
        "--num-frames": data.num_frames,
        "--size": "x".join(map(str, data.size)),
        "--fit": data.fit,
        "--stride": data.stride,
        "--batch-size": batch,
        "--learning-rate": given.learning_rate,
        "--seed": given.seed,
        "--no-rotation": given.no_rotation,
        "--dtype": dtype,
    }


def begin_folder(
    given: Options, continued: bool, settings: Mapping[str, Any], found: Found, stack: contextlib.ExitStack
) -> None:
    """Make the run's folder, or hold the one that is there against this run; it is locked until the stack is left."""
    if not continued:
        run_folder.make(given.out)
    stack.enter_context(run_folder.locked(given.out))
    before = run_folder.read(given.out)
    if before is None:
        run_folder.write(given.out, settings)
    elif not continued:
        raise InputError(f"{given.out}: another process began a run there just now")
    else:
        run_folder.check_same(before, settings, given.out)
    data_report.write_csv(found, given.out / "data.csv")


def starting_tensors(given: Options, where: checkpoint.Shardings) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The base UNet's tensors that are trained or carried, and those to begin with, float32."""
    base = delta.base_tensors(given.model, VALUES + (QUERIES if given.no_rotation else ()), where)
    if given.init is None:
        return base, dict(base)
    begin = delta.restore(given.init, given.model / "unet", jnp.float32, where)
    if given.no_rotation is not any(name.endswith(QUERIES) for name in begin):
        kind = "with" if given.no_rotation else "without"
        raise InputError(f"--init {given.init}: expected weights trained {kind} --no-rotation, as this run's are")
    return base, begin


def last_whole(given: Options, step: Finetuning, settings: Mapping[str, Any]) -> Whole | None:
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
def batches(
    given: Options, info: checkpoint.Info, data: DataSettings, order: Order, step: Finetuning, first: int
) -> Iterator[Loader | CachedLoader]:
    """The batches from a step on, from the videos or from the latent cache, which is filled first."""
    arguments = (order, step.how.batch_size, step.rows, first)
    if given.cache_latents is None:
        with Loader(*arguments, workers=given.workers) as loader:
            yield loader
        return
    # the networks compute in dtypes that follow from the UNet's and the configuration
    key = fingerprint([info.sources, info.config.to_json(), info.dtype, str(jnp.dtype(step.model.unet.dtype))])
    cache = LatentCache(given.cache_latents, data, key)
    cache.build(order.sources, step.frame_encoder(), share=(jax.process_index(), jax.process_count()))
    hosts.barrier("latents cached")
    with CachedLoader(cache, *arguments) as loader:
        yield loader


def validation_of(given: Options, found: Found, data: DataSettings, model: SVD, step: Finetuning) -> Callable[[State], None]:
    settings = Settings(num_frames=data.num_frames, steps=given.validate_steps, seed=given.seed)

    def backward(state: State) -> dict[str, jax.Array]:
        tensors = {**step.carried, **state.trained}
        return {name: value.astype(model.unet.dtype) for name, value in tensors.items()}

    return validation.make(given.out / "validation", found.held_out[0], data, model, settings, backward)


def export(given: Options, info: checkpoint.Info, step: Finetuning, base: dict[str, jax.Array], state: State) -> None:
    """Write `OUT/backward`, which `sample.interpolate --backward` and `convert.flax_to_svd --backward` take."""
    values, base = (step.whole(tensors) for tensors in ({**step.carried, **state.trained}, base))
    if hosts.is_main():
        facts = {"steps": int(state.step), "sources": info.sources, "how": dataclasses.asdict(step.how)}
        delta.save_backward(given.out / "backward", values, base, facts, dtype=given.export_dtype, overwrite=True)
    say(f"wrote {given.out / 'backward'} after step {int(state.step)}; loss curve in {given.out / 'loss.png'}")


def command(argv: list[str] | None) -> None:
    given = options.parse(argv)
    try:
        train(given)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(
            "the device ran out of memory: try --accumulate, --mesh fsdp=-1, a smaller --size, or fewer --num-frames"
        ) from None


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
