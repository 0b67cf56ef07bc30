"""Compare our training step with PyTorch's: same weights, batch, dtype and device, timed alternately.

PyTorch and diffusers (the `test` extra) are imported only when needed.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from sample.benchmarking import timing, versus_diffusers
from sample.benchmarking.results import Comparison
from sample.benchmarking.train_workload import TrainWorkload
from svdjax.diffusers_layout.name_table import torch_row
from svdjax.losses.finetuning import Examples
from svdjax.models.svd import leaves
from train.steps.state import State, to_arrays

if TYPE_CHECKING:
    import torch

    from sample.benchmarking.torch_train_step import Batch, OfficialTrainStep


@versus_diffusers.out_of_memory_in_one_line()
def compare(workload: TrainWorkload, program: timing.Program, dtype: str, repeats: int) -> Comparison:
    """Check that the first steps agree, then time further steps alternately.

    Args:
        workload: made with `allocate`, before its first step.
        program: the compiled `workload.update`; each run is one more step.
        dtype: dtype of frozen weights and computation.
        repeats: timed runs of each.

    Raises:
        RuntimeError: losses or gradients differ by too much, see `check_agreement`.
    """
    import torch

    from sample.benchmarking.torch_train_step import OfficialTrainStep

    device, threads = versus_diffusers.prepare_torch()
    state, (unet, carried), examples = workload.arguments
    config = dataclasses.asdict(unet.config)
    forward = versus_diffusers.to_torch(leaves(unet), dtype, device)
    backward = versus_diffusers.to_torch({**state.trained, **carried}, "float32", device)
    step = OfficialTrainStep(config, forward, backward, workload.settings.learning_rate)
    batch = torch_batch(examples, device)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss_difference, gradient_difference = differences(program, step, batch)
    versus_diffusers.check_agreement("losses", loss_difference, dtype)
    versus_diffusers.check_agreement("gradients", gradient_difference, dtype)

    def run_official(lean: bool) -> None:
        step.set_lean(lean)
        step(batch)
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        run_official(lean=False)
        peak = torch.cuda.max_memory_allocated()
    else:
        b, f, c, h, w = batch.latents.shape
        request = {"config": config, "batch_size": b, "latent_shape": (f, h, w, c), "dtype": dtype, "threads": threads}
        peak = versus_diffusers.peak_in_own_process("sample.benchmarking.torch_train_step", request)
    return Comparison(
        relative_difference=gradient_difference,
        relative_difference_of_loss=loss_difference,
        threads=threads if device == "cpu" else None,
        peak_bytes=peak,
        diffusers=version("diffusers"),
        torch=version("torch"),
        **versus_diffusers.time_alternately(program.run, run_official, repeats),
    )


def differences(program: timing.Program, step: OfficialTrainStep, batch: Batch) -> tuple[float, float]:
    """Run both first steps; return the relative differences of the losses, and of all clipped gradients together."""
    new, result = program.run()
    loss, _ = step(batch)
    theirs = {name: np.asarray(value.double().cpu()) for name, value in step.moments().items()}
    ours = {}
    for name, value in moments(new).items():
        row = torch_row(name, value.shape)
        ours[row.torch_name] = row.layout.to_torch(np.asarray(value, np.float64))
    if ours.keys() != theirs.keys():
        name = sorted(ours.keys() ^ theirs.keys())[0]
        raise RuntimeError(f"svdjax and the official step train different tensors: only one of them trains {name}")
    squares = [(np.sum((ours[n] - theirs[n]) ** 2), np.sum(theirs[n] ** 2)) for n in theirs]
    difference, size = np.sum(squares, 0)
    return abs(float(result.loss) - float(loss)) / float(loss), float(np.sqrt(difference / size))


def moments(state: State) -> dict[str, jax.Array]:
    """AdamW's first moments by name; after the first step they are a tenth of the clipped gradients."""
    flat = to_arrays(state)
    (prefix,) = {name.split(".mu.")[0] for name in flat if ".mu." in name}
    return {name.removeprefix(f"{prefix}.mu."): value for name, value in flat.items() if name.startswith(f"{prefix}.mu.")}


def torch_batch(x: Examples, device: str) -> Batch:
    """A batch with PyTorch's axes and the official order of frames."""
    import torch

    from sample.benchmarking.torch_train_step import Batch

    def tensor(value: jax.Array) -> torch.Tensor:
        return torch.from_numpy(np.array(value, np.float32)).to(device)

    def reversed_clip(value: jax.Array) -> torch.Tensor:
        return tensor(jnp.moveaxis(value[:, ::-1], -1, -3))

    return Batch(
        latents=reversed_clip(x.latents),
        noise=reversed_clip(x.noise),
        sigma=tensor(x.sigma),
        image_embeds=tensor(x.image_embeds),
        image_latents=tensor(jnp.moveaxis(x.image_latents, -1, -3)),
        added_time_ids=tensor(x.added_time_ids),
    )
