"""Small random SVDs in diffusers' layout, written by diffusers and transformers themselves."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import goldens
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from convert.svd_to_flax import main
from svdjax.checkpoints.orbax_trees import restore_tree, tree_shapes
from svdjax.diffusers_layout.name_table import torch_row
from svdjax.models.initialize import abstract

UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "num_attention_heads": (2, 4),
    "cross_attention_dim": 48,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
    "num_frames": 5,
    "sample_size": 16,
}
VAE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "layers_per_block": 1,
    "sample_size": 32,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "patch_size": 32,
    "projection_dim": 48,
    "hidden_act": "gelu",
}
COMPONENTS = ("unet", "vae", "image_encoder")
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.5, 0.75]}  # not CLIP's usual ones


def network(component: str, seed: int = 0, **settings: Any) -> torch.nn.Module:
    """One PyTorch network whose parameters are all random, norms and biases too; float16 holds their values exactly."""
    torch.manual_seed(seed)
    if component == "unet":
        module = UNetSpatioTemporalConditionModel(**{**UNET, **settings})
    elif component == "vae":
        module = AutoencoderKLTemporalDecoder(**{**VAE, **settings})
    else:
        module = CLIPVisionModelWithProjection(CLIPVisionConfig(**{**CLIP, **settings}))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((0.1 * torch.randn_like(parameter)).half())
    return module


def write(folder: Path, seed: int = 0, **settings: Mapping[str, Any]) -> Path:
    """A whole SVD, float32; `settings` are of a network, by component."""
    for component in COMPONENTS:
        network(component, seed, **settings.get(component, {})).save_pretrained(folder / component)
    EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, timestep_type="continuous", sigma_min=0.002, sigma_max=700.0
    ).save_pretrained(folder / "scheduler")
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(STATISTICS))
    return folder


def weights_file(folder: Path, component: str, variant: str = "") -> Path:
    """The single file of a component's weights."""
    stem = "model" if component == "image_encoder" else "diffusion_pytorch_model"
    return folder / component / f"{stem}{variant}.safetensors"


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file as numpy arrays."""
    return {name: value.float().numpy() for name, value in load_file(path).items()}


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a file in place."""
    values = load_file(path)
    change(values)
    save_file({name: value.contiguous() for name, value in values.items()}, path)


def edit_json(path: Path, **settings: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def enliven(folder: Path) -> Path:
    """Give a whole SVD weights as those of `goldens`, with which what it makes depends on its input, and return it."""
    for component in COMPONENTS:

        def draw(values: dict[str, torch.Tensor], tag: str = goldens.TAGS[component]) -> None:
            for name, value in values.items():
                values[name] = torch.from_numpy(goldens.weight(tag, name, value.shape))

        edit(weights_file(folder, component), draw)
    return folder


def temporal(name: str, *kinds: str) -> bool:
    """Whether a PyTorch name is one of these tensors of a temporal self-attention."""
    return any(f"temporal_transformer_blocks.0.attn1.{kind}." in name for kind in kinds)


def move(kinds: tuple[str, ...], seed: int, scale: float = 0.05) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change for `edit`: random deltas to the temporal self-attentions' tensors of these kinds."""

    def change(values: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in values:
            if temporal(name, *kinds):
                values[name] = values[name] + scale * torch.randn(values[name].shape, generator=generator)

    return change


move_values = functools.partial(move, ("to_v", "to_out.0"))


TRAINED = ("to_v.kernel", "to_out.kernel")  # what the paper trains; to_out.bias stays frozen
Tensors = dict[str, np.ndarray]


def trained(base: Tensors, kinds: tuple[str, ...] = TRAINED) -> Tensors:
    """What training leaves of tensors of these kinds: moved by what float16 rounds. Copies, by the names of `base`."""
    rng = np.random.default_rng(5)
    return {n: v + np.float32(1e-3) * rng.standard_normal(v.shape, np.float32) for n, v in base.items() if n.endswith(kinds)}


cached_abstract = functools.cache(abstract)  # building the same networks again takes most of a small conversion


def save_npz(path: Path, tree: Mapping[str, np.ndarray]) -> None:
    """Stands in for Orbax, which takes seconds to write and read a small model, where its part is not what is tested."""
    path.mkdir()
    np.savez(path / "tree.npz", **tree)


def converted(checkpoint: Path, part: str) -> dict[str, np.ndarray]:
    """What a checkpoint stores of a network, or of its backward weights, back in PyTorch's names and axes."""
    path = checkpoint / part
    if (path / "tree.npz").exists():
        with np.load(path / "tree.npz") as data:
            tree = dict(data)
    else:
        tree = {name: np.asarray(value) for name, value in restore_tree(path, tree_shapes(path)).items()}
    rows = {leaf: torch_row(leaf, value.shape) for leaf, value in tree.items()}
    return {row.torch_name: row.layout.to_torch(tree[leaf]) for leaf, row in rows.items()}


def assert_holds(out: Path, source: Path, dtype: str = "float32"):
    """The checkpoint holds every tensor of the float32 `source`, cast to `dtype`, and nothing else."""
    for component in COMPONENTS:
        stored, expected = converted(out, component), tensors(weights_file(source, component))
        assert sorted(stored) == sorted(expected)
        for name, value in expected.items():
            assert stored[name].dtype == jnp.dtype(dtype)
            np.testing.assert_array_equal(stored[name], value.astype(jnp.dtype(dtype)), err_msg=name)


def refused(capsys, *arguments, command: Callable[[list[str]], int] = main) -> str:
    """The one line that a refused conversion, or another command, prints."""
    assert command([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert captured.out == ""
    return line.removeprefix("error: ")
