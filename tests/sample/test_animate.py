"""Image-to-video: agreement with diffusers' pipeline, and checks of the public function."""

from __future__ import annotations

import dataclasses
import inspect

import goldens
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module
from PIL import Image
from transformers import CLIPImageProcessor

import svdjax
from sample.animate import remaining
from sample.console import duration
from svdjax import pipeline
from svdjax.sampling import generation
from svdjax.sampling.draws import Draws
from svdjax.sampling.settings import Settings

# As for the official sampler: 1e-6 more in the initial latents moves the final ones by 4e-6; ours differ by 3e-6 to 8e-6.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def theirs() -> StableVideoDiffusionPipeline:
    """Model A in diffusers."""

    def network(name: str) -> torch.nn.Module:
        network = goldens.torch_model(name, goldens.config(name))
        network.load_state_dict({k: torch.from_numpy(v) for k, v in goldens.weights(name).items()})
        return network

    folder = goldens.DATA / "model"
    made = StableVideoDiffusionPipeline(
        vae=network("vae"),
        image_encoder=network("image_encoder"),
        unet=network("unet"),
        scheduler=EulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        feature_extractor=CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def draws(pipeline_data) -> Draws:
    """Recorded noise for the image and the first latents."""
    return Draws(jnp.asarray(pipeline_data["noise_aug"]), jnp.asarray(pipeline_data["initial"]), jnp.zeros((0, 1)))


def test_it_is_the_pipeline_of_diffusers(theirs, draws, monkeypatch):
    augmentation = torch.from_numpy(np.moveaxis(np.asarray(draws.augmentation), -1, 1).copy())
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: augmentation)
    image = goldens.keyframe(1)
    want = theirs(
        Image.fromarray(image),
        height=128,
        width=192,
        num_frames=5,
        num_inference_steps=3,
        latents=torch.from_numpy(np.moveaxis(np.asarray(draws.initial), -1, 2).copy()),
        output_type="latent",
        min_guidance_scale=1.5,
        max_guidance_scale=2.5,
        fps=12,
        motion_bucket_id=40,
        noise_aug_strength=0.1,
    ).frames
    with torch.no_grad():
        decoded = theirs.decode_latents(want, num_frames=5, decode_chunk_size=5)
    pictures = (theirs.video_processor.postprocess_video(decoded, output_type="np")[0] * 255).round()

    settings = {"steps": 3, "guidance": (1.5, 2.5), "fps": 12, "motion_bucket_id": 40, "noise_aug_strength": 0.1}
    latents = generation.sample_image(goldens.svd(), image[None], Settings(num_frames=5, **settings), draws=draws)
    assert goldens.relative(latents, goldens.channels_last(np.asarray(want))) < TOLERANCE
    frames = svdjax.animate(goldens.svd(), image, draws=draws, **settings)
    assert frames.dtype == np.uint8
    assert np.abs(frames - pictures).max() <= 1  # a rounding may go the other way


def test_defaults_are_those_of_diffusers():
    theirs = inspect.signature(StableVideoDiffusionPipeline.__call__).parameters
    names = {
        "fps": "fps",
        "motion_bucket_id": "motion_bucket_id",
        "noise_aug_strength": "noise_aug_strength",
        "num_inference_steps": "steps",
        "min_guidance_scale": "guidance",
        "max_guidance_scale": "guidance",
    }
    ours = dataclasses.asdict(Settings(steps=pipeline.IMAGE_TO_VIDEO_STEPS))
    for their_name, name in names.items():
        value = ours[name][their_name.startswith("max")] if name == "guidance" else ours[name]
        assert theirs[their_name].default == value, their_name


def test_frames_and_steps_are_the_models_and_diffusers_unless_given(monkeypatch):
    asked = []

    def sample_image(model, image, settings, **options):
        asked.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "sample_image", sample_image)
    for settings in ({}, {"num_frames": 3, "steps": 4}):
        with pytest.raises(KeyboardInterrupt):
            svdjax.animate(goldens.svd(), goldens.keyframe(1), **settings)
    assert [(one.num_frames, one.steps) for one in asked] == [(5, 25), (3, 4)]


def test_images_are_checked():
    good = goldens.keyframe(1)
    for image, message in (
        (good.astype(np.float32), "image is float32"),
        (good[:100], "image is 192x100, expected multiples of 64"),
        (good[..., :2], "image is uint8"),
    ):
        with pytest.raises(svdjax.InputError, match=message) as error:
            svdjax.animate(goldens.svd(), image)
        assert "\n" not in str(error.value)


def test_given_draws_are_checked_and_planned(lively_model, compilations):
    """The plan compiles the step for arrays of noise, not for a seed's keys."""
    model, image = svdjax.load(lively_model), goldens.keyframe(1)[:16, :32]
    latent = (1, 3, 8, 16, 4)
    noise = Draws(*(jnp.ones(shape) for shape in ((1, 16, 32, 3), latent, (0, *latent))))
    settings = {"num_frames": 3, "steps": 1, "memory": 0.5}
    with compilations() as found:
        svdjax.animate(model, image, draws=noise, **settings)
    assert found.count("jit(scan)") == 1
    wrong = dataclasses.replace(noise, initial=jnp.ones((1, 2, 8, 16, 4)))
    for draws, message in ((3, "draws is a int, expected"), (wrong, "draws.initial has shape")):
        with pytest.raises(svdjax.InputError, match=message):
            svdjax.animate(model, image, draws=draws, **settings)


def test_durations_and_remaining_time():
    assert [duration(s) for s in (0.4, 89, 91, 3000, 3600, 9280)] == [
        "0 s",
        "89 s",
        "2 min",
        "50 min",
        "1 h 0 min",
        "2 h 35 min",
    ]
    assert remaining([100.0], 2, 2) == "; 2 clips left, about 3 min"  # nothing else is known yet
    assert remaining([100.0, 10.0, 12.0], 1, 1) == "; 1 clip left, about 11 s"  # the first one compiled
    assert remaining([100.0, 40.0], 3, 0) == "; 3 clips left"  # sampled already
    assert remaining([100.0], 0, 0) == ""
