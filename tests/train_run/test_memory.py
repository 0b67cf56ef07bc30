"""`--memory` of `train.backward`: the plan of a fine-tune, and runs that equal those without a plan."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training
from jax.experimental.layout import Format, Layout

from svdjax.checkpoints import checkpoint
from svdjax.config import CLIPConfig, SVDConfig, UNetConfig, VAEConfig
from svdjax.devices.budget import GIB
from svdjax.errors import InputError
from svdjax.memory.programs import ProgramMemory, in_formats
from svdjax.parallel.mesh import make_mesh
from train import backward
from train.batches.loader import Batch
from train.run.result import Result
from train.steps import state as states
from train.steps.finetuning import TrainWork
from train.steps.placing import device_bytes
from train.steps.settings import FinetuningSettings
from train.steps.step import Step
from train.steps.train_plan import plan_training

ENCODE, UPDATE = 10 * GIB, 40 * GIB  # scratch of the programs, with a step in one part


def compile_nothing(program):
    """Stands in for a compiler: more parts divide the scratch of a step."""
    if program.name != "train_step":
        return ProgramMemory(ENCODE, 0, 0)
    return ProgramMemory(UPDATE // program.fn.__self__.settings.accumulate, 0, 0)


@pytest.fixture(scope="module")
def work():
    unet = UNetConfig(**training.UNET, layers_per_block=1, transformer_layers_per_block=1, cross_attention_dim=32)
    clip = CLIPConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=32)
    config = SVDConfig(unet=unet, vae=VAEConfig(block_out_channels=(32, 32), layers_per_block=1), image_encoder=clip)
    settings = FinetuningSettings(batch_size=4, num_frames=8, size=(64, 64))
    return TrainWork(config=config, settings=settings, dtype="float32", mesh=make_mesh("data=1", jax.devices()[:1]))


def plan(work, budget):
    return plan_training(work, budget, compile=compile_nothing)[0]


def test_the_cheapest_plan_that_fits(work):
    most = plan(work, 100 * GIB)
    assert (most.offload, most.accumulate, most.transfer_bytes) == (False, 1, 0)
    assert [phase.name for phase in most.phases] == ["encode", "step"]
    assert most.peak_bytes == most.phases[1].peak_bytes > UPDATE
    encoders = device_bytes(work.step(1, False).encoders)

    waiting = plan(work, most.peak_bytes - 1)
    assert (waiting.offload, waiting.accumulate, waiting.transfer_bytes) == (True, 1, encoders)
    assert waiting.peak_bytes == most.peak_bytes - encoders
    assert waiting.phases[0] == most.phases[0]
    assert "the encoders are kept in host memory while a step runs" in waiting.describe()[0]

    in_parts = plan(work, waiting.peak_bytes - 1)
    assert (in_parts.offload, in_parts.accumulate) == (False, 2)
    assert in_parts.describe()[0].endswith("a step in 2 parts")
    assert plan(work, 12 * GIB).accumulate == 4

    with pytest.raises(InputError, match=r"^--memory is 10 GiB: a step of 4 x 8 frames of 64x64 needs at least 10\.\d GiB in"):
        plan(work, 10 * GIB)


def test_what_a_step_keeps_on_the_device(work):
    """Never the decoder; with cached latents no image encoder either. The weights of the tiny model are float32."""
    step = work.step(1, False)
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(step.encoders)[0]}
    assert not any("decoder" in name for name in names)
    cached = TrainWork(config=work.config, settings=work.settings, dtype="float32", mesh=work.mesh, cached=True)
    encoders = cached.step(1, False).encoders
    assert encoders[0] is None
    assert 0 < device_bytes(encoders) < device_bytes(step.encoders)
    encode, update = cached.step(1, False).programs(cached.arrays())
    assert encode.args[1]["keyframes"].shape == (4, 2, 64, 64, 3)
    assert update.args[2].latents.shape == (4, 8, 32, 32, 4)


def test_filling_the_latent_cache(work):
    """Both encoders are on the device with the training state, also where a step uses only one of them."""
    cached = TrainWork(config=work.config, settings=work.settings, dtype="float32", mesh=work.mesh, cached=True)
    made = plan(cached, 100 * GIB)
    filling, encode, _ = made.phases
    assert (filling.name, encode.name) == ("cache latents", "encode")
    image_encoder, _ = work.step(1, False).encoders
    (step, cached_step), frames = (x.step(1, False) for x in (work, cached)), 8 * 64 * 64 * 3
    state = device_bytes((step.frozen, step.abstract_state))
    assert filling.resident_bytes == state + device_bytes(step.encoders) + frames
    assert filling.resident_bytes - frames == state + device_bytes(image_encoder) + device_bytes(cached_step.encoders)
    assert (filling.scratch_bytes, filling.program) == (ENCODE, "cache_latents")
    program = cached.cache_program()
    compiled = program.lower().compile()  # of a tiny model
    assert compiled.memory_analysis().temp_size_in_bytes > 0


@pytest.mark.parametrize("gib", ["0", "-1", "nan", "much"])
def test_not_a_number_of_gib(run, capsys, gib):
    assert run("--memory", gib) == 2
    assert f"--memory: is '{gib}', expected a number of GiB above 0" in capsys.readouterr().err


def test_more_than_there_is(run, capsys):
    assert run("--memory", "1e6") == 2
    assert "--memory is 1e+06, expected at most" in training.one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("compile_once")
def test_a_planned_run_is_the_same(run, out, training_run, capsys, monkeypatch):
    """Bit for bit, with encoders kept in host memory, and then with encoders on the device."""

    def with_offload(*args):
        made, step = plan_training(*args)
        step.offload = True
        return made, step

    with monkeypatch.context() as patch:
        patch.setattr(backward, "plan_training", with_offload)
        assert run("--memory", "1", steps=3) == 0
    assert run("--resume", "--memory", "1") == 0
    training.assert_same_run(out, training_run, 6)
    printed = capsys.readouterr().out
    assert "plan for 1 GiB: the encoders stay on the device" in printed
    assert re.search(r"planned peaks in GiB: encode 0\.\d+, step 0\.\d+", printed)


@pytest.mark.usefixtures("compile_once")
def test_refused_before_the_model_is_loaded(run, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("loaded"))
    assert run("--memory", "0.001") == 2
    line = training.one_line(capsys.readouterr().err)
    assert line.startswith("error: --memory is 0.001 GiB: a step of 1 x 3 frames of 32x32 needs at least 0.0")


class Scaled(Step):
    """A step with one number as its state, whose frozen kernel has a layout to choose."""

    def make_examples(self, encoders, arrays, step):
        return arrays["clips"] * encoders["head.kernel"] * step

    def next_state(self, state, frozen, examples):
        kernel = frozen["conv.kernel"]
        product = jax.lax.conv_general_dilated(examples, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        gradients = {"scale": product.mean()}
        zeros = jnp.zeros(self.batch_size)
        result = Result(loss=product.mean(), losses=zeros, sigma=zeros, gradient_norm=zeros[0], finite=jnp.array(True))
        return states.apply(state, gradients, optax.sgd(0.1)), result


@pytest.mark.parametrize("chooses_layouts", [False, True])
@pytest.mark.parametrize("offload", [False, True])
def test_a_step_with_encoders_in_host_memory_and_chosen_layouts(monkeypatch, chooses_layouts, offload):
    monkeypatch.setattr(Scaled, "_chooses_layouts", chooses_layouts)
    encoders = {"head.kernel": np.float32([2, 3]) if offload else jnp.float32([2, 3])}
    kernel = jax.device_put(jnp.arange(36.0).reshape(3, 3, 2, 2))
    mesh = make_mesh("data=1", jax.devices()[:1])
    start = {"scale": jnp.float32(1)}
    frozen = {"conv.kernel": jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))}
    step = Scaled(mesh, 1, start, optax.sgd(0.1), encoders=encoders, frozen=frozen, offload=offload)
    step.begin(start)
    state = step.state
    for number in (1, 2):
        batch = Batch(number, ["a"], {"clips": np.ones((1, 4, 4, 2), np.float32)})
        state, result = step.update(state, batch)
    assert int(state.step) == 2
    examples = jnp.ones((1, 4, 4, 2)) * jnp.float32([2, 3]) * 2
    product = jax.lax.conv_general_dilated(examples, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(result.loss, product.mean(), rtol=1e-6)
    assert isinstance(step.encoders["head.kernel"], np.ndarray) == offload


def test_divided_arrays_are_copied_to_the_host_by_one_program(monkeypatch):
    """Each new `jax.jit` would compile its programs again, at every validation and export."""
    made = []

    def jit(function, **options):
        made.append(options)
        return function

    class Divided:
        is_fully_replicated = False

        def __array__(self, *args, **options):
            return np.ones(3)

    start = {"scale": jnp.float32(1)}
    step = Scaled(make_mesh("data=1", jax.devices()[:1]), 1, start, optax.sgd(0.1))
    monkeypatch.setattr(jax, "jit", jit)
    divided: Any = {"a": Divided()}
    for _ in range(2):
        assert step.whole(divided)["a"].tolist() == [1, 1, 1]
    assert len(made) == 1


def test_arrays_are_moved_to_other_layouts():
    turned = Layout(major_to_minor=(1, 0))
    x, y, unused = (jax.device_put(jnp.arange(6.0).reshape(2, 3) + i) for i in range(3))
    formats = [Format(turned, x.sharding), y.format, Format(None, None)]
    moved = in_formats([x, y, unused], formats)
    assert moved[0].format.layout.major_to_minor == (1, 0)
    assert moved[1] is y
    assert moved[2] is unused
    assert x.is_deleted()
    np.testing.assert_array_equal(moved[0], jnp.arange(6.0).reshape(2, 3))
