"""The preview: the sampler's estimates of the result, and the linear map from latents to small frames."""

from __future__ import annotations

import base64
import io

import jax.numpy as jnp
import numpy as np
import pytest
from networks import plain_unet
from PIL import Image

import svdjax
from sample.page import preview
from svdjax.config import EDMConfig
from svdjax.models.backward import Backward
from svdjax.sampling import generation
from svdjax.sampling.draws import draw
from svdjax.sampling.methods import settings_of
from svdjax.sampling.prediction import Conditioning
from svdjax.sampling.sampler import sample
from svdjax.sampling.settings import Settings
from svdjax.world.drawing import render
from svdjax.world.scene import scene

RANDOM = np.random.default_rng(0)
SETTINGS = Settings(num_frames=3, steps=4, recurrence=1, guidance=(1, 2))


def run(method="trf", settings=SETTINGS, **options):
    rng = np.random.default_rng(1)
    embeds, latents = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 1, 1, 8), (2, 1, 4, 6, 4)))
    conditioning = Conditioning(embeds, latents, jnp.zeros((1, 3)), latents)
    draws = draw([0], (32, 48, 3), (3, 4, 6, 4))
    options = {"scheduler": EDMConfig(sigma_max=80.0), "backward": Backward({}), "method": method, **options}
    return np.asarray(sample(plain_unet(), conditioning, settings, draws, **options))


@pytest.mark.parametrize(("method", "passes"), [("trf", "guidance"), ("vibid", None)])
def test_the_sampler_gives_its_estimates(method, passes):
    """After each update; they approach the result, and the run is the same."""
    seen, reports = [], []
    settings = settings_of(method, {"num_frames": 3, "steps": 4, "guidance": (1, 2)}, {})
    options = {"method": method, "settings": settings, "passes": passes, "segments": 99}
    latents = run(**options, preview=seen.append, progress=lambda done, total: reports.append(len(seen)))
    np.testing.assert_allclose(latents, run(**options, progress=lambda *_: None), atol=1e-5)
    assert len(seen) == (4 if method == "trf" else 8)
    assert reports == list(range(1, len(seen) + 1))  # the preview comes before the report
    distances = [np.abs(np.asarray(x) - latents).mean((0, 2, 3, 4)) for x in seen]
    assert distances[-1].mean() < distances[0].mean()
    # the last step leads to the estimate; that of vibid replaces the first frame, because it is backward
    assert distances[-1][method == "vibid" :].max() < 1e-5


@pytest.mark.parametrize("name", ["preview", "progress"])
def test_an_exception_of_a_callback_ends_the_run(name):
    class Stop(Exception):
        pass

    calls = []

    def stop(*_):
        calls.append(1)
        raise Stop

    with pytest.raises(Stop):
        run(segments=99, **{name: stop})
    assert len(calls) == 1


def test_no_preview_with_a_trajectory():
    with pytest.raises(svdjax.InputError, match="preview: expected no trajectory"):
        run(preview=print, trajectory=True)


def test_the_map_is_found():
    """Latents from which the colours are a linear function of neighbours: the map recovers them, for other latents too."""
    weights = RANDOM.standard_normal((28, 3)) * 0.02
    weights[-1] = 0.5
    latents = RANDOM.standard_normal((4, 16, 24, 3))
    images = preview.frames_of(latents, weights).repeat(8, 1).repeat(8, 2)
    found = preview.fit_map(latents[:2], images[:2])
    assert np.abs(preview.frames_of(latents[2:], found).astype(int) - images[2:, ::8, ::8]).max() <= 3


def test_keyframes_of_one_colour():
    grey = np.full((2, 64, 64, 3), 90, np.uint8)
    weights = preview.fit_map(np.full((2, 8, 8, 4), 0.3), grey)
    assert (preview.frames_of(np.full((5, 8, 8, 4), 0.3), weights) == 90).all()


def test_data_uri():
    picture = np.full((6, 4, 3), (10, 200, 30), np.uint8)
    kind, _, text = preview.data_uri(picture).partition(",")
    assert kind == "data:image/webp;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
    assert read.shape == picture.shape
    assert np.abs(read.astype(int) - picture).max() < 12


@pytest.mark.heavy
def test_previews_look_like_the_clip():
    """On the embedded world, against the decoded frames, reduced to the size of the preview."""
    model = svdjax.load("embedded")
    settings = settings_of("dual", {}, {"num_frames": 8, **model.defaults})
    for number in (3, 11, 20):
        clip = render(scene("test", number))
        weights = preview.map_of(model, clip[0], clip[-1], settings, "dual", None)
        seen = []
        options = {"progress": lambda *_: None, "preview": lambda x, seen=seen: seen.append(np.asarray(x[0]))}
        latents = generation.sample_pair(model, clip[:1], clip[-1:], settings, **options)
        frames = generation.decode(model, latents)[0].reshape(8, 16, 4, 16, 4, 3).mean((2, 4))
        shown = [preview.frames_of(x, weights).astype(float) for x in seen]
        psnr = [10 * np.log10(255**2 / np.square(x - frames).mean()) for x in shown]
        alike = [np.corrcoef(x.ravel(), frames.ravel())[0, 1] for x in shown]
        print(number, "PSNR", *(f"{x:.1f}" for x in psnr[::6]), "correlation", *(f"{x:.3f}" for x in alike[::6]))
        assert len(seen) == 25
        assert psnr[-1] > 30
        assert min(alike) > 0.9
