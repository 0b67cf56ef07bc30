"""Open a diffusers folder: read its configurations and find its weight files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.config import SVDConfig, UNetConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.diffusers_layout.name_table import TensorRow, check_tensors, network_table
from svdjax.diffusers_layout.safetensors_reader import Weights
from svdjax.errors import InputError

# The networks, and the names of their weight files without endings.
WEIGHTS_NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
# Endings in order of preference: float32 before float16, one file before an index of several. diffusers and transformers put
# "fp16" before ".json" in the name of an index; some uploads have it where the name of a single file has it.
FLOAT32_ENDINGS = (".safetensors", ".safetensors.index.json")
FLOAT16_ENDINGS = (".fp16.safetensors", ".safetensors.index.fp16.json", ".fp16.safetensors.index.json")
PICKLE_ENDINGS = (".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Model:
    """An opened diffusers folder.

    Attributes:
        config: the model's configuration.
        weights: weights of each network, opened but not read.
        json_files: the configuration files that were read.
    """

    config: SVDConfig
    weights: dict[str, Weights]
    json_files: tuple[Path, ...]


@dataclass(frozen=True)
class UNetFolder:
    """An opened folder of a UNet: its configuration, its weights (not read yet), and the path of its `config.json`."""

    config: UNetConfig
    weights: Weights
    json_file: Path


def open_model(folder: Path) -> Model:
    """Read the configurations of a diffusers folder and the headers of its weights.

    Args:
        folder: holds `unet/`, `vae/`, `image_encoder/`, `scheduler/`, and `feature_extractor/` if the mean and standard
            deviation of the pixels for CLIP are not CLIP's own.

    Raises:
        InputError: a missing part, another model class, or files that can't be used.
    """
    require_folder(folder, "a diffusers folder (unet/, vae/, image_encoder/, scheduler/)")
    configs: dict[str, Any] = {}
    json_files = []
    for component in (*WEIGHTS_NAMES, "scheduler"):
        require_folder(folder / component, f"the {component} of a diffusers folder")
        json_files.append(folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json"))
        configs[component] = read_config(component, json_files[-1])
    preprocessor = folder / "feature_extractor" / "preprocessor_config.json"
    if preprocessor.exists():
        json_files.append(preprocessor)
        statistics = {k: v for k, v in read_json(preprocessor).items() if k in ("image_mean", "image_std")}
        with _errors_named(preprocessor):
            configs["image_encoder"] = dataclasses.replace(configs["image_encoder"], **statistics)
    with _errors_named(folder):
        config = SVDConfig(**configs)
    weights = {network: open_weights(network, folder / network) for network in WEIGHTS_NAMES}
    return Model(config, weights, tuple(json_files))


def name_tables(model: Model) -> dict[str, dict[str, TensorRow]]:
    """The name table of each network, after the headers of its files were checked against it.

    Raises:
        InputError: tensors that are missing, unexpected, or of another shape or type.
    """
    tables = {}
    for network, weights in model.weights.items():
        tables[network] = network_table(network, model.config)
        check_tensors(network, tables[network], weights.tensors, str(weights.where))
    return tables


def open_unet(folder: Path) -> UNetFolder:
    """Open a UNet in its own folder, or in a folder that holds it as `unet/`; for errors see `open_model`."""
    require_folder(folder, "a UNet's folder (config.json and its weights) or a folder that holds it as unet/")
    if not (folder / "config.json").exists() and (folder / "unet").is_dir():
        folder = folder / "unet"
    path = folder / "config.json"
    return UNetFolder(read_config("unet", path), open_weights("unet", folder), path)


def open_weights(network: str, folder: Path) -> Weights:
    """Find the weights of a network and read their headers.

    Raises:
        InputError: no weights, pickled weights, or files that are not complete safetensors files.
    """
    name = WEIGHTS_NAMES[network]
    files = _files_of_weights(name, folder)
    if files:
        return Weights.open(files[0], _files_of_index(files[0]) if files[0].suffix == ".json" else (files[0],))
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLE_ENDINGS)
    if pickled:
        raise InputError(f"{pickled[0]}: {_pickle_advice(pickled[0])}")
    expected = f"{name}{FLOAT32_ENDINGS[0]} or {name}{FLOAT16_ENDINGS[0]}"
    raise InputError(f"{folder}: holds no weights, expected {expected} (or an index of several files)")


def unused_variants(weights: Weights) -> list[Path]:
    """Files in the same folder that hold the same weights as `weights` and are not read."""
    name = weights.where.name.partition(".")[0]
    return [path for path in _files_of_weights(name, weights.where.parent) if path != weights.where]


def require_folder(path: Path, expected: str) -> None:
    """Raise `InputError` unless `path` is a folder; `expected` says what it should hold."""
    if path.is_file():
        is_pickle = path.suffix in PICKLE_ENDINGS
        raise InputError(f"{path}: {_pickle_advice(path) if is_pickle else f'is a file, expected {expected}'}")
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected {expected}")


def read_config(component: str, path: Path) -> Any:
    """The configuration of one component from its JSON file; see `from_pytorch`."""
    data = read_json(path)
    with _errors_named(path):
        return from_pytorch(component, data)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: no such file, or not a JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path}: can't be read: {e.strerror}") from None
    except ValueError as e:  # wrong JSON or wrong encoding
        raise InputError(f"{path}: is not JSON: {e}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a JSON {type(data).__name__}, expected an object")
    return data


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Prefix errors about settings with the path of their file."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    except TypeError as e:
        raise InputError(f"{path}: a setting has the wrong type ({e})") from None


def _files_of_weights(name: str, folder: Path) -> list[Path]:
    """Existing weight files and indices of a network, the preferred one first; each stands for all weights."""
    paths = [folder / (name + ending) for ending in FLOAT32_ENDINGS + FLOAT16_ENDINGS]
    return [path for path in paths if path.exists()]


def _files_of_index(index: Path) -> tuple[Path, ...]:
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
