"""Small random SVDs in diffusers layout, written by diffusers and transformers; functions to change and check them."""

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
from diffusers import (
    AutoencoderKLTemporalDecoder,  # pyright: ignore[reportPrivateImportUsage]
    EulerDiscreteScheduler,  # pyright: ignore[reportPrivateImportUsage]
    UNetSpatioTemporalConditionModel,  # pyright: ignore[reportPrivateImportUsage]
)
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
Tensors = dict[str, np.ndarray]

COMPONENTS = ("unet", "vae", "image_encoder")
UNET_FILE = "diffusion_pytorch_model.safetensors"
TO_V = "mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.weight"
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.5, 0.75]}  # not CLIP's usual ones


def network(component: str, seed: int = 0, **settings: Any) -> Any:
    """A PyTorch network with random parameters, also of norms and biases; float16 holds their values exactly."""
    torch.manual_seed(seed)
    module: Any
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
    """Write a whole SVD, float32, and return its folder; `settings` are those of the networks, by component."""
    for component in COMPONENTS:
        network(component, seed, **settings.get(component, {})).save_pretrained(folder / component)
    EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, timestep_type="continuous", sigma_min=0.002, sigma_max=700.0
    ).save_pretrained(folder / "scheduler")
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(STATISTICS))
    return folder


def weights_file(folder: Path, component: str, variant: str = "") -> Path:
    """The path of a component's weights in one file."""
    stem = "model" if component == "image_encoder" else "diffusion_pytorch_model"
    return folder / component / f"{stem}{variant}.safetensors"


def tensors(path: Path) -> Tensors:
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
    """Give a whole SVD the weights of `goldens`, so large that its videos depend on its input, and return it."""
    for component in COMPONENTS:

        def draw(values: dict[str, torch.Tensor], tag: str = goldens.TAGS[component]) -> None:
            for name, value in values.items():
                values[name] = torch.from_numpy(goldens.weight(tag, name, value.shape))

        edit(weights_file(folder, component), draw)
    return folder


def temporal(name: str, *kinds: str) -> bool:
    """Whether a PyTorch name is a tensor of one of these kinds, such as `to_v`, in a temporal self-attention."""
    return any(f"temporal_transformer_blocks.0.attn1.{kind}." in name for kind in kinds)


def move(kinds: tuple[str, ...], seed: int, scale: float = 0.05) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change for `edit`: add random numbers to the temporal self-attentions' tensors of these kinds."""

    def change(values: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in values:
            if temporal(name, *kinds):
                values[name] = values[name] + scale * torch.randn(values[name].shape, generator=generator)

    return change


move_values = functools.partial(move, ("to_v", "to_out.0"))
TRAINED = ("to_v.kernel", "to_out.kernel")  # the kinds that the paper trains; to_out.bias is frozen


def trained(base: Tensors, kinds: tuple[str, ...] = TRAINED) -> Tensors:
    """Tensors of these kinds as after training: copies with differences from `base` that float16 rounds."""
    rng = np.random.default_rng(5)
    return {n: v + np.float32(1e-3) * rng.standard_normal(v.shape, np.float32) for n, v in base.items() if n.endswith(kinds)}


cached_abstract = functools.cache(abstract)  # most of the time of a small conversion


def save_npz(path: Path, tree: Mapping[str, np.ndarray]) -> None:
    """A quick replacement of `save_tree` for tests of anything but Orbax."""
    path.mkdir()
    np.savez(path / "tree.npz", allow_pickle=False, **tree)


def converted(checkpoint: Path, part: str) -> Tensors:
    """The stored tensors of a network, or of backward weights, with PyTorch's names and axes."""
    path = checkpoint / part
    if (path / "tree.npz").exists():
        with np.load(path / "tree.npz") as data:
            tree = dict(data)
    else:
        tree = {name: np.asarray(value) for name, value in restore_tree(path, tree_shapes(path)).items()}
    rows = {leaf: torch_row(leaf, value.shape) for leaf, value in tree.items()}
    return {row.torch_name: row.layout.to_torch(tree[leaf]) for leaf, row in rows.items()}


def diffusers_state(folder: Path, **options: Any) -> Tensors:
    """The tensors of a UNet as diffusers reads them from a folder; none may be missing or unexpected."""
    loaded: Any = UNetSpatioTemporalConditionModel.from_pretrained(folder, output_loading_info=True, **options)
    module, report = loaded
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return {name: value.float().numpy() for name, value in module.state_dict().items()}


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same tensors by name: values, shapes and dtypes."""
    assert sorted(actual) == sorted(expected)
    assert actual
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(actual[name]), np.asarray(value), err_msg=name, strict=True)


def assert_holds(out: Path, source: Path, dtype: str = "float32") -> None:
    """The checkpoint holds every tensor of the float32 `source`, cast to `dtype`, and nothing else."""
    for component in COMPONENTS:
        expected = {name: value.astype(jnp.dtype(dtype)) for name, value in tensors(weights_file(source, component)).items()}
        assert_same(converted(out, component), expected)


def refused(capsys: Any, *arguments: object, command: Callable[[list[str]], int] = main) -> str:
    """Run a conversion, or another command, that must be refused, and return its one line of error."""
    assert command([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert captured.out == ""
    return line.removeprefix("error: ")
