"""What a diffusers folder holds: which files of weights to read, and what its configuration files say."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.config import SVDConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.diffusers_layout.safetensors_reader import Weights
from svdjax.errors import InputError

# The components with weights, and the names of their files without endings.
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
# Endings in the order they are preferred: float32 before float16, one file before several. diffusers and transformers put the
# variant last in the name of an index; some uploads have it as in the name of a single file.
FLOAT32_ENDINGS = (".safetensors", ".safetensors.index.json")
FLOAT16_ENDINGS = (".fp16.safetensors", ".safetensors.index.fp16.json", ".fp16.safetensors.index.json")
PICKLED = (".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Model:
    """A whole SVD in PyTorch's layout: `config`, the opened `weights` by component, and the JSON files they came with."""

    config: SVDConfig
    weights: dict[str, Weights]
    json_files: tuple[Path, ...]


def open_model(folder: Path) -> Model:
    """Read the configurations of a diffusers folder and the headers of its weights.

    Args:
        folder: holds `unet/`, `vae/`, `image_encoder/`, `scheduler/`, and `feature_extractor/` if CLIP's pixel statistics
            are not the usual ones.

    Raises:
        InputError: a part that is missing, another class of model, or files that can't be used.
    """
    require_folder(folder, "a diffusers folder (unet/, vae/, image_encoder/, scheduler/)")
    configs: dict[str, Any] = {}
    json_files = []
    for component in (*STEMS, "scheduler"):
        require_folder(folder / component, f"the {component} of a diffusers folder")
        json_files.append(folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json"))
        configs[component] = read_config(component, json_files[-1])
    preprocessor = folder / "feature_extractor" / "preprocessor_config.json"
    if preprocessor.exists():
        json_files.append(preprocessor)
        statistics = {k: v for k, v in read_json(preprocessor).items() if k in ("image_mean", "image_std")}
        configs["image_encoder"] = _naming(preprocessor, dataclasses.replace, configs["image_encoder"], **statistics)
    config = _naming(folder, SVDConfig, **configs)
    weights = {component: open_weights(component, folder / component) for component in STEMS}
    return Model(config, weights, tuple(json_files))


def open_unet(folder: Path) -> tuple[Any, Weights, Path]:
    """Configuration, weights and `config.json` of a UNet, from its own folder or from one that holds it as `unet/`."""
    require_folder(folder, "a UNet's folder (config.json and its weights) or one that holds it as unet/")
    if not (folder / "config.json").exists() and (folder / "unet").is_dir():
        folder = folder / "unet"
    path = folder / "config.json"
    return read_config("unet", path), open_weights("unet", folder), path


def open_weights(component: str, folder: Path) -> Weights:
    """Find the weights of a component and read their headers.

    Raises:
        InputError: no weights, pickled weights, or files that are not whole safetensors files.
    """
    found = _candidates(STEMS[component], folder)
    if not found:
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
        if pickled:
            raise InputError(f"{pickled[0]}: {_pickle_advice(pickled[0])}")
        names = f"{STEMS[component]}{FLOAT32_ENDINGS[0]} or {STEMS[component]}{FLOAT16_ENDINGS[0]}"
        raise InputError(f"{folder}: holds no weights, expected {names} (or an index of several files)")
    return Weights.open(found[0], _shards(found[0]) if found[0].suffix == ".json" else (found[0],))


def unread(weights: Weights) -> list[Path]:
    """Other files of the same weights beside those that are read."""
    stem = weights.where.name.partition(".")[0]
    return [path for path in _candidates(stem, weights.where.parent) if path != weights.where]


def require_folder(path: Path, expected: str) -> None:
    """Refuse what is not a folder; `expected` says what it should be."""
    if path.is_file():
        raise InputError(f"{path}: {_pickle_advice(path) if path.suffix in PICKLED else f'is a file, expected {expected}'}")
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected {expected}")


def read_config(component: str, path: Path) -> Any:
    """The configuration of one component from its JSON file."""
    return _naming(path, from_pytorch, component, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: no such file, or not a JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path}: can't be read: {e.strerror}") from None
    except ValueError as e:  # of the JSON, or of its encoding
        raise InputError(f"{path}: is not JSON: {e}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a JSON {type(data).__name__}, expected an object")
    return data


def _naming(path: Path, build: Any, *args: Any, **kwargs: Any) -> Any:
    """`build(...)`, with the file that its settings came from in front of its errors."""
    try:
        return build(*args, **kwargs)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    except TypeError as e:
        raise InputError(f"{path}: a setting has the wrong type ({e})") from None


def _candidates(stem: str, folder: Path) -> list[Path]:
    paths = [folder / (stem + ending) for ending in FLOAT32_ENDINGS + FLOAT16_ENDINGS]
    return [path for path in paths if path.exists()]


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names."""
    weight_map = read_json(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{index}: has no weight_map, expected one from tensor names to the names of files beside it")
    return tuple(index.parent / name for name in sorted(set(names)))


def _pickle_advice(path: Path) -> str:
    return (
        f"{path.suffix} files are pickles, which can run code when opened, and are not read: load the model in PyTorch and "
        f"write it with save_pretrained(folder, safe_serialization=True)"
    )
