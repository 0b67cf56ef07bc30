"""CLIP vision tower: parity with recorded outputs and with transformers."""

from __future__ import annotations

import goldens
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import make_clip

from svdjax.config import CLIPConfig
from svdjax.errors import InputError
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.sampling.conditioning import clip_pixels, to_signed_unit

# Float32 rounding through a few layers is below 1e-6; a structural error gives 1e-2 or more.
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def clip() -> CLIPVision:
    return make_clip(goldens.config("image_encoder"), goldens.weights("image_encoder"))


@pytest.mark.parametrize("number", [1, 2])
def test_golden(clip, number):
    """From the keyframe on: the resize before the model adds a small error (see `test_conditioning`)."""
    pixels = clip_pixels(to_signed_unit(jnp.asarray(goldens.keyframe(number)[None])), clip.config)
    recorded = goldens.keyframe_stages()
    embeds = goldens.call(clip, "__call__", pixels)
    assert goldens.relative(embeds, recorded[f"clip/frame{number}/image_embeds"][0]) < 1e-5
    if number == 1:
        tokens = goldens.call(clip, "last_hidden_state", pixels)
        assert goldens.relative(tokens, recorded["clip/last_hidden_state"]) < 1e-5


# Patch 14 and 32, a size that is no multiple of the patch, both activations, one and several heads, two epsilons.
CONFIGS = [
    {"patch_size": 14, "image_size": 42, "hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-5},
    {"patch_size": 32, "image_size": 70, "hidden_act": "quick_gelu", "num_attention_heads": 1, "layer_norm_eps": 1e-2},
]


@pytest.mark.parametrize("settings", CONFIGS, ids=lambda s: f"patch{s['patch_size']}")
def test_against_transformers(settings):
    torch = pytest.importorskip("torch")
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "projection_dim": 24}
    config = {"model_type": "clip_vision_model"} | sizes | settings
    tensors = goldens.torch_weights("image_encoder", config, seed=settings["patch_size"])
    theirs = goldens.torch_model("image_encoder", config)
    theirs.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    pixels = goldens.draw("pixels", (2, settings["image_size"], settings["image_size"], 3))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    ours = make_clip(config, tensors)
    assert goldens.relative(goldens.call(ours, "__call__", pixels), expected.image_embeds) < TOLERANCE
    assert goldens.relative(goldens.call(ours, "last_hidden_state", pixels), expected.last_hidden_state) < TOLERANCE


def test_compute_dtype(clip):
    half = make_clip(goldens.config("image_encoder"), goldens.weights("image_encoder"), jnp.bfloat16)
    pixels = goldens.draw("pixels", (1, 224, 224, 3))
    embeds = goldens.call(half, "__call__", pixels)
    assert embeds.dtype == jnp.bfloat16
    # rounding of bfloat16's 8-bit mantissa through two layers
    assert 1e-4 < goldens.relative(embeds.astype(jnp.float32), goldens.call(clip, "__call__", pixels)) < 0.03


def test_wrong_image_size_is_refused(clip):
    with pytest.raises(InputError, match=r"pixel_values has shape \(1, 128, 192, 3\), expected \(b, 224, 224, 3\)"):
        clip(np.zeros((1, 128, 192, 3), np.float32))


def test_positions_of_svd():
    """257 positions at SVD's size: 16 x 16 patches and the class token. The model is abstract."""
    clip = abstract(CLIPVision, CLIPConfig(), jnp.float32)
    leaves = [leaf for _, leaf in nnx.to_flat_state(nnx.state(clip, nnx.Param))]
    assert clip.vision_model.embeddings.position_embedding.embedding.shape == (257, 1280)
    assert sum(leaf.size for leaf in leaves) == 632_076_800  # the count of ViT-H/14 in transformers
