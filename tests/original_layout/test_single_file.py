"""Models in one file: every name of Stability's modules, their outputs, diffusers' script, other people's files, refusals."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import goldens
import jax.numpy as jnp
import numpy as np
import original_files
import pytest
from original_files import recorded, tensors, text, write

import svdjax
from svdjax.checkpoints.safetensors_reader import StoredTensor
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.direct import stored_dtype
from svdjax.diffusers_layout.name_table import network_table
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.models.svd import NETWORKS, SVD
from svdjax.original_layout.config_from_shapes import config_of
from svdjax.original_layout.name_table import ENCODER, PLAIN_ENCODER, UNUSED, original
from svdjax.original_layout.single_file import frames_of_name, open_file

pytestmark = pytest.mark.usefixtures("quick_shapes")

TOLERANCE = 3e-5  # of outputs; a wrong tensor gives 1e-2 or more


@pytest.mark.heavy  # builds or compiles networks
def test_every_tensor_of_svd_xt():
    """Names and shapes of Stability's own modules at full size: each is read, or is in the list of unused ones."""
    full = {name: tuple(shape) for name, shape in text("full").items()}
    headers = {name: StoredTensor(dtype="F16", shape=shape, path=Path("x"), start=0, stop=0) for name, shape in full.items()}
    assert config_of(headers, 25, ENCODER) == SVDConfig()
    found = {}
    for network in NETWORKS:
        for row in network_table(network, SVDConfig()).values():
            tensor = original(network, row.torch_name, row.torch_shape, SVDConfig())
            found[tensor.name] = tensor.shape
    assert found.items() <= full.items()
    for name in full.keys() - found.keys():
        other_copy = name.startswith(f"{PLAIN_ENCODER}encoder.") and name.replace(PLAIN_ENCODER, ENCODER, 1) in found
        assert other_copy or name.startswith(UNUSED), name


@pytest.fixture(scope="module")
def model(single_file) -> SVD:
    return svdjax.load(single_file)


@pytest.mark.heavy  # builds or compiles networks
def test_unet_gives_the_output_of_stability(model):
    sample = goldens.channels_last(goldens.draw("in:x", (3, 8, 8, 16)))[None]
    inputs = (sample, jnp.full(1, 0.25 * np.log(3)), goldens.draw("in:context", (1, 1, 48)), jnp.asarray([[6, 127, 0.02]]))
    found = goldens.call(model.unet, "__call__", *inputs)
    assert goldens.relative(found[0], goldens.channels_last(recorded()["unet"])) < TOLERANCE


@pytest.mark.heavy  # builds or compiles networks
def test_vae_and_vision_tower_give_the_outputs_of_stability(model):
    image = goldens.channels_last(goldens.draw("in:image", (1, 3, 32, 48)))
    moments = model.vae.quant_conv(goldens.call(model.vae.encoder, "__call__", image))
    assert goldens.relative(moments, goldens.channels_last(recorded()["encoder"])) < TOLERANCE
    latents = goldens.channels_last(goldens.draw("in:z", (3, 4, 8, 12)))[None]
    frames = goldens.call(model.vae.decoder, "__call__", latents, block_bytes=2**30)
    assert goldens.relative(frames[0], goldens.channels_last(recorded()["decoder"])) < TOLERANCE
    pixels = goldens.channels_last(goldens.draw("in:pixels", (2, 3, 32, 32)))
    embeds = goldens.call(model.image_encoder, "__call__", pixels)
    assert goldens.relative(np.reshape(embeds, (2, 48)), recorded()["vision"]) < TOLERANCE


def without_conditioner(values: original_files.Tensors) -> None:
    for name in [name for name in values if name.startswith("conditioner.embedders.3.")]:
        del values[name]


def test_every_value_is_that_of_the_script_of_diffusers(tmp_path):
    """The script takes the encoder of `first_stage_model` and has no `quant_conv`.

    It writes the mix factor of the last of the blocks without attention to that of the first one, and leaves out the others.
    """
    opened = open_file(write(tmp_path / "svd_xt.safetensors", without_conditioner))
    mixers = [f"up_blocks.0.resnets.{i}.time_mixer.mix_factor" for i in range(2)]
    for i, name in enumerate(mixers):
        expected = tensors()[f"model.diffusion_model.output_blocks.{i}.0.time_mixer.mix_factor"]
        np.testing.assert_array_equal(opened.weights["unet"].read(name), expected)
    left_out = {"quant_conv.weight", "quant_conv.bias", *mixers}
    for network, expected in text("script").items():
        found = {
            name: [list(value.shape), zlib.crc32(np.ascontiguousarray(value).tobytes())]
            for name, value in opened.weights[network].stream(lambda _: None)
        }
        assert {name: found[name] for name in found.keys() - left_out} == {
            name: expected[name] for name in expected.keys() - left_out
        }
        assert found.keys() - expected.keys() <= left_out


def test_encoder_without_its_own_last_convolution(tmp_path):
    """Files without the conditioner's encoder have `quant_conv` multiplied into the encoder: an identity is used for it."""
    opened = open_file(write(tmp_path / "svd.safetensors", without_conditioner))
    np.testing.assert_array_equal(opened.weights["vae"].read("quant_conv.weight")[:, :, 0, 0], np.eye(8))
    np.testing.assert_array_equal(opened.weights["vae"].read("quant_conv.bias"), np.zeros(8))


def test_files_of_comfyui(single_file, tmp_path):
    saved = write(tmp_path / "svd_xt.safetensors", original_files.as_comfyui)
    ours, theirs = open_file(single_file), open_file(saved)
    assert ours.config == theirs.config
    for name in ours.weights["image_encoder"].tensors:
        np.testing.assert_array_equal(ours.weights["image_encoder"].read(name), theirs.weights["image_encoder"].read(name))


def test_sixteen_bits(single_file, tmp_path):
    half = write(
        tmp_path / "svd_xt_fp16.safetensors", lambda values: values.update({k: v.astype(np.float16) for k, v in values.items()})
    )
    source = find_model(half)
    assert "float16, 25 frames per clip by its name" in source.notes[0]
    exact = find_model(single_file)
    for network, weights in source.opened.weights.items():
        for name in weights.tensors.keys() - weights.constants.keys():
            expected = exact.opened.weights[network].read(name).astype(np.float16)
            np.testing.assert_array_equal(weights.read(name), expected, err_msg=name, strict=True)
    assert stored_dtype(source.opened) == "float16"


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("svd.safetensors", 14),
        ("svd_xt.safetensors", 25),
        ("svd_xt_1_1.safetensors", 25),
        ("SVD-fp16.safetensors", 14),
        ("stable-video-diffusion-img2vid-xt.safetensors", 25),
        ("AnimateLCM-SVD-xt-1.1.safetensors", 25),
        ("my-tune.safetensors", 25),
        ("svdtune.safetensors", 25),
    ],
)
def test_frames_by_the_name(name, frames):
    assert frames_of_name(name)[0] == frames


def test_frames_given_and_in_metadata(tmp_path):
    path = write(tmp_path / "other.safetensors")
    opened = open_file(path)
    assert (opened.config.unet.num_frames, open_file(path, 14).config.unet.num_frames) == (25, 14)
    assert "25 frames per clip assumed (--num-frames 14 for SVD instead of SVD-XT)" in opened.notes[0]
    data = opened.config.to_json()
    data["unet"]["num_frames"] = 7
    assert open_file(write(path, svdjax_config=json.dumps(data))).config.unet.num_frames == 7


def only(*prefixes: str):
    def change(values):
        for name in [name for name in values if not name.startswith(prefixes)]:
            del values[name]

    return change


def drop(part: str):
    def change(values):
        for name in [name for name in values if part in name]:
            del values[name]

    return change


NORM = "model.diffusion_model.middle_block.1.time_stack.0.norm_in.weight"
REFUSED = {
    "another model": (lambda v: (v.clear(), v.update(x=np.zeros(1)))[0], "holds other weights, expected Stable Video"),
    "a model for images": (drop("time_stack"), "is a model for images, without temporal layers, expected"),
    "the image decoder": (drop("first_stage_model.decoder.conv_out.time_mix"), "has the VAE's decoder for images, "),
    "no VAE": (drop("first_stage_model"), "lacks the VAE, expected"),
    "no VAE and image encoder": (only("model."), "lacks the VAE and the image encoder, expected"),
    "a UNet alone": (
        lambda v: (only("model.")(v), v.update({k.removeprefix("model.diffusion_model."): v.pop(k) for k in list(v)}))[0],
        "is a UNet without the VAE and the image encoder, expected .*: convert.svd_to_flax --unet takes it$",
    ),
    "a tensor less": (lambda v: v.pop(NORM), f"lacks {NORM}: not the weights that a model of its shapes has, expected"),
    "a tensor more": (lambda v: v.update({"model.diffusion_model.x": np.zeros(1)}), "has unexpected model.diffusion_model.x"),
    "another shape": (lambda v: v.update({NORM: np.zeros(33)}), f"{NORM} is 33, expected 64"),
    "another type": (lambda v: v.update({NORM: np.zeros(64, np.int8)}), f"{NORM} is I8, expected one of F64"),
    "no embedding": (lambda v: v.pop("model.diffusion_model.label_emb.0.0.weight"), "lacks model.diffusion_model.label_emb"),
    "odd widths": (
        lambda v: v.update({"model.diffusion_model.input_blocks.1.0.in_layers.2.weight": np.zeros((33, 32, 3, 3))}),
        "block_out_channels has 33, expected a positive multiple of 32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path, kind):
    change, message = REFUSED[kind]
    path = write(tmp_path / "svd_xt.safetensors", change)
    with pytest.raises(InputError, match=message) as caught:
        find_model(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_files(single_file, tmp_path):
    path, data = tmp_path / "svd.safetensors", single_file.read_bytes()
    for damaged, message in [
        (b"", "is empty"),
        (data[:-1], "is truncated"),
        (b"version https://git-lfs.github.com", "is a Git LFS pointer"),
        (b"PK\x03\x04" + data[:100], "is not a safetensors file"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            find_model(path)
    opened = open_file(write(path, lambda values: values.update({NORM: np.full(64, np.nan)})))
    with pytest.raises(InputError, match="holds 64 NaN or infinite values"):
        dict(opened.weights["unet"].stream(lambda _: None))
    with pytest.raises(InputError, match="svdjax_config in its metadata is damaged"):
        find_model(write(path, svdjax_config='{"unet": 1}'))


def test_file_alone_in_a_folder(single_file):
    assert find_model(single_file.parent).folder == single_file
