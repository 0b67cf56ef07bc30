"""The fine-tuning step against recordings of the official one with random model A: loss, gradients, AdamW steps."""

from __future__ import annotations

import dataclasses

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import svd_folders
import torch
import training
from goldens import channels_last, relative

from svdjax.config import UNetConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.diffusers_layout.name_table import torch_row
from svdjax.losses import finetuning
from svdjax.losses.finetuning import Examples
from svdjax.losses.training_noise import Noising, TrainingDraws, draw_training_noise
from svdjax.memory.rematerialise import run_plainly
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.models.svd import leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE

NETWORKS = {"unet": UNet, "vae": VAE, "image_encoder": CLIPVision}


def network(component, dtype=jnp.float32, weights=None):
    config = from_pytorch(component, goldens.config(component))
    return goldens.fill(abstract(NETWORKS[component], config, dtype), weights or goldens.weights(component))


@pytest.fixture(scope="module")
def recorded():
    with np.load(goldens.DATA.parent / "train.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def unet():
    return network("unet")


@pytest.fixture(scope="module")
def draws(recorded):
    """The recorded draws; the official noise is in the order of the reversed clip."""
    return TrainingDraws(
        sigma=recorded["from_base/sigmas"].reshape(1),
        augmentation=channels_last(recorded["in/noise_cond"]),
        posterior=channels_last(recorded["in/noise_posterior"])[None, ::-1],
        noise=channels_last(recorded["in/noise_latents"])[:, ::-1],
    )


@pytest.fixture(scope="module")
def examples(recorded, draws) -> Examples:
    clips = jnp.asarray(channels_last(recorded["in/forward_clip"]))
    encode = jax.jit(finetuning.encode_clips, static_argnames="noising")
    return encode(network("image_encoder"), network("vae"), clips, draws, Noising())


def start(unet, tuned: bool = False):
    """The trained and the carried tensors: from the UNet itself, or from A's backward UNet."""
    values = leaves(network("unet", weights=goldens.backward_weights()) if tuned else unet)
    names = finetuning.trained_names(leaves(unet))
    carried = {name: values[name] for name in names_of_kinds(values, VALUES) if name not in names}
    return {name: values[name] for name in names}, carried


def test_the_official_inputs_of_the_networks(recorded, examples):
    # The recorded arrays are in reversed time; the VAE's encoder differs by 1.5e-5 between PyTorch's own code paths.
    assert relative(examples.latents[:, ::-1], channels_last(recorded["from_base/latents"])) < 5e-5
    ends = [recorded[f"from_base/conditions_latent{kind}"][:, 0] for kind in ("_ref", "")]
    assert relative(examples.image_latents, channels_last(np.stack(ends, 1))) < 5e-5
    embeds = [recorded[f"from_base/encoder_hidden_states{kind}"] for kind in ("_ref", "")]
    assert relative(examples.image_embeds, np.stack(embeds, 1)) < 1e-5
    np.testing.assert_allclose(examples.added_time_ids, [[6, 127, 0.02]], rtol=1e-6)


def assert_stepped(trained, expected, before, gradients):
    """Compare AdamW steps, except for gradients of nearly zero: their sign is rounding, but a step is always about 1e-4.

    Rounding of the values is 4e-5 of a step; without weight decay, steps differ by 1e-3 to 5e-3.
    """
    for name, value in trained.items():
        row = torch_row(name, value.shape)
        sure = np.abs(gradients[row.torch_name]) > 1e-7
        assert sure.mean() > 0.9
        start, after = (np.asarray(row.layout.to_torch(np.asarray(x)), np.float64)[sure] for x in (before[name], value))
        assert relative(after - start, expected[row.torch_name][sure] - start) < 5e-4, name


@pytest.fixture(scope="module")
def update(unet, examples):
    """One step from given trained and carried tensors, compiled once."""
    tx = finetuning.optimizer(1e-4)

    @jax.jit
    def update(trained, carried, state):
        loss, _, gradients = finetuning.loss_and_gradients(trained, unet, examples, carried=carried, run_block=run_plainly)
        updates, state = tx.update(gradients, state, trained)
        return loss, gradients, optax.apply_updates(trained, updates), state

    return lambda trained, carried, state=None: update(trained, carried, tx.init(trained) if state is None else state)


@pytest.mark.parametrize("begin", ["from_base", "from_backward"])
def test_official_steps(recorded, unet, update, begin):
    trained, carried = start(unet, tuned=begin == "from_backward")
    assert len(trained) == 20
    gradients = {
        row.torch_name: recorded[f"{begin}/grad/{row.torch_name}"]
        for row in (torch_row(name, value.shape) for name, value in trained.items())
    }
    before = {name: np.asarray(value) for name, value in trained.items()}
    loss, ours, trained, state = update(trained, carried)
    np.testing.assert_allclose(loss, recorded[f"{begin}/loss"], rtol=1e-5)
    for name, value in ours.items():
        row = torch_row(name, value.shape)
        assert relative(row.layout.to_torch(np.asarray(value)), gradients[row.torch_name]) < 1e-4, name
    assert_stepped(trained, torch_adamw(before, gradients), before, gradients)

    loss, ours, trained, state = update(trained, carried, state)
    np.testing.assert_allclose(loss, recorded[f"{begin}/step2/loss"], rtol=1e-5)
    np.testing.assert_allclose(optax.tree.norm(ours), recorded[f"{begin}/step2/grad_norm"], rtol=1e-4)
    after = {name: recorded[f"{begin}/step2/after/{name}"] for name in gradients}
    assert_stepped(trained, after, before, gradients)


def torch_adamw(values, gradients):
    """One step of PyTorch's AdamW with the official settings and the recorded gradients, by PyTorch's names."""
    parameters = {}
    for name, value in values.items():
        row = torch_row(name, value.shape)
        parameters[row.torch_name] = torch.nn.Parameter(torch.tensor(np.array(row.layout.to_torch(value))))
        parameters[row.torch_name].grad = torch.tensor(gradients[row.torch_name])
    torch.optim.AdamW(parameters.values(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2).step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


@pytest.fixture(scope="module")
def small():
    """A UNet of one level, which compiles fast."""
    return goldens.drawn(UNet, UNetConfig(**svd_folders.UNET | training.UNET, transformer_layers_per_block=1), jnp.float32)


@pytest.fixture(scope="module")
def batch() -> Examples:
    """Four clips of three frames at different noise levels."""
    keys = iter(jax.random.split(jax.random.key(0), 4))
    latents, noise = (jax.random.normal(next(keys), (4, 3, 4, 6, 4)) for _ in range(2))
    return Examples(
        latents=latents,
        noise=noise,
        sigma=jnp.array([0.05, 0.6, 3.0, 40.0]),
        image_embeds=jax.random.normal(next(keys), (4, 2, 1, 48)),
        image_latents=jax.random.normal(next(keys), (4, 2, 4, 6, 4)),
        added_time_ids=jnp.tile(jnp.array([[6, 127, 0.02]]), (4, 1)),
    )


@pytest.mark.parametrize(
    ("rotation", "rotated"),
    [(True, {"mid", "up.0", "up.1"}), (False, set()), (("up",), {"up.0", "up.1"}), (("mid", "up.1"), {"mid", "up.1"})],
)
def test_layers_that_use_the_rotated_maps(monkeypatch, batch, rotation, rotated):
    """Stand-ins for the networks record the maps that the backward direction gets."""
    maps = {path: jnp.arange(4.0).reshape(1, 1, 2, 2) for path in ("mid", "up.0", "up.1")}
    forward_passes, seen = [], []

    class Forward:
        dtype = jnp.float32

        def __call__(self, sample, *args, **options):
            forward_passes.append(sample.shape)
            return sample[..., :4], maps

    def backward(sample, *args, attn_maps, **options):
        seen.append(attn_maps)
        return sample[..., :4]

    monkeypatch.setattr(finetuning, "backward_unet", lambda unet, params: backward)
    finetuning.clip_losses({}, Forward(), batch, rotation=rotation)
    assert set(seen[0]) == rotated
    assert len(forward_passes) == (rotation is not False)
    for used in seen[0].values():
        np.testing.assert_array_equal(used[0, 0], [[3, 2], [1, 0]])


@pytest.mark.heavy
def test_rematerialised_gradients_are_those_of_kept_activations(small, batch):
    loss, losses, gradients = jax.jit(finetuning.loss_and_gradients)(start(small)[0], small, batch)
    step = jax.jit(finetuning.loss_and_gradients, static_argnames="run_block")
    other_loss, other_losses, other_gradients = step(start(small)[0], small, batch, run_block=run_plainly)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    np.testing.assert_allclose([other_loss, losses.mean()], loss, rtol=1e-5)
    for name, value in gradients.items():
        assert relative(other_gradients[name], value) < 1e-5, name


def test_draws_of_a_row_depend_on_nothing_else():
    noising = Noising()
    whole = draw_training_noise(3, 7, jnp.arange(6), (4, 4, 3), (2, 1, 1, 4), noising)
    some = draw_training_noise(3, 7, jnp.array([4, 1]), (4, 4, 3), (2, 1, 1, 4), noising)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(some), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[[4, 1]], b)
    other = draw_training_noise(3, 8, jnp.arange(6), (4, 4, 3), (2, 1, 1, 4), noising)
    assert not np.isclose(whole.sigma, other.sigma).any()


def test_sigmas_are_lognormal():
    sigma = draw_training_noise(0, 0, jnp.arange(4000), (1, 1, 3), (1, 1, 1, 1), Noising()).sigma
    # standard errors with 4000 draws: 1.6/63 = 0.025 of the mean, 0.018 of the deviation
    assert abs(np.log(sigma).mean() - 0.7) < 0.08
    assert abs(np.log(sigma).std() - 1.6) < 0.06


def test_known_moments_give_the_same_examples(recorded, draws):
    """Moments from the latent cache, with newly encoded noised frames, give the same examples as encoding everything."""
    clips = jnp.asarray(channels_last(recorded["in/forward_clip"]))
    encoder, vae = network("image_encoder"), network("vae")
    expected = jax.jit(finetuning.encode_clips, static_argnames="noising")(encoder, vae, clips, draws, Noising())
    mean, logvar, embeds = jax.jit(finetuning.encode_frames)(encoder, vae, clips[0])
    moments = finetuning.Moments(mean[None], logvar[None], embeds[jnp.array([0, -1])][None])
    ends = clips[:, jnp.array([0, -1])]
    actual = jax.jit(finetuning.encode_ends, static_argnames="noising")(vae, ends, moments, draws, Noising())
    for field in dataclasses.fields(Examples):
        name, a, b = field.name, getattr(actual, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()), err_msg=name)
