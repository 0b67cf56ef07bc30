"""Open a diffusers folder: read its configurations and find its weight files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.checkpoints.recognize import check_input_folder, pickle_advice, pickles, wrong_folder
from svdjax.checkpoints.safetensors_reader import Weights
from svdjax.config import SVDConfig, UNetConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.diffusers_layout.name_table import TensorRow, check_tensors, network_table
from svdjax.errors import InputError
from svdjax.runtime.input_files import check_folder, read_json

# The networks, and the names of their weight files without endings.
WEIGHTS_NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
# Variants in order of preference: first the one without a name, float32; float16 has more digits than bfloat16.
VARIANTS = ("", ".fp16", ".bf16")
WHOLE = "a diffusers folder (unet/, vae/, image_encoder/, scheduler/) or the .safetensors file of a whole model"


@dataclass(frozen=True)
class Model:
    """An opened model in PyTorch's files: a diffusers folder, or one file (`svdjax.original_layout`).

    Attributes:
        config: the model's configuration.
        weights: weights of each network, opened but not read; tensors have their names and shapes in diffusers layout.
        json_files: the configuration files that were read.
        notes: lines to show to the user: what was found, files that are not used.
    """

    config: SVDConfig
    weights: dict[str, Weights]
    json_files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def hashes(self) -> dict[str, str]:
        """SHA-256 of all weights, by file or by network."""
        return {name: digest for network, weights in self.weights.items() for name, digest in weights.hashes(network).items()}


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
    check_input_folder(folder, WHOLE)
    if not any(os.path.lexists(folder / component) for component in (*WEIGHTS_NAMES, "scheduler")):
        raise wrong_folder(folder, WHOLE, "has none of these folders")
    configs: dict[str, Any] = {}
    json_files = []
    for component in (*WEIGHTS_NAMES, "scheduler"):
        check_folder(folder / component, f"the {component} of a diffusers folder")
        json_files.append(folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json"))
        configs[component] = read_config(component, json_files[-1])
    preprocessor = folder / "feature_extractor" / "preprocessor_config.json"
    if os.path.lexists(preprocessor.parent):
        check_folder(preprocessor.parent, "the feature_extractor of a diffusers folder")
    if os.path.lexists(preprocessor):
        json_files.append(preprocessor)
        statistics = {k: v for k, v in read_json(preprocessor).items() if k in ("image_mean", "image_std")}
        with _errors_named(preprocessor):
            configs["image_encoder"] = dataclasses.replace(configs["image_encoder"], **statistics)
    with _errors_named(folder):
        config = SVDConfig(**configs)
    weights = {network: open_weights(network, folder / network) for network in WEIGHTS_NAMES}
    notes = tuple(note for network, found in weights.items() for note in unused_notes(network, found))
    return Model(config, weights, tuple(json_files), notes)


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
    expected = "a UNet's folder (config.json and its weights) or a folder that holds it as unet/"
    check_input_folder(folder, expected)
    if not os.path.lexists(folder / "config.json"):
        if not os.path.lexists(folder / "unet"):
            raise wrong_folder(folder, expected, "has no config.json")
        folder = folder / "unet"
        check_folder(folder, "a UNet's folder")
    path = folder / "config.json"
    return UNetFolder(read_config("unet", path), open_weights("unet", folder), path)


def open_weights(network: str, folder: Path) -> Weights:
    """Find the weights of a network and read their headers.

    Raises:
        InputError: no weights, pickled weights, or files that are not complete safetensors files.
    """
    files = _files_of_weights(network, folder)
    if files:
        return Weights.open(files[0], files_of_index(files[0]) if files[0].suffix == ".json" else (files[0],))
    for pickled in pickles(folder):
        raise InputError(f"{pickled}: {pickle_advice(pickled)}")
    expected = " or ".join(f"{WEIGHTS_NAMES[network]}{variant}.safetensors" for variant in VARIANTS)
    raise InputError(f"{folder}: holds no weights, expected {expected} (or an index of several files)")


def unused_notes(network: str, weights: Weights) -> list[str]:
    """Lines about files in the same folder that hold the same weights as `weights` and are not read."""
    others = [path for path in _files_of_weights(network, weights.where.parent) if path != weights.where]
    return [f"{weights.where} is used, {path.name} beside it is not" for path in others]


def read_config(component: str, path: Path) -> Any:
    """The configuration of one component from its JSON file; see `from_pytorch`."""
    data = read_json(path)
    with _errors_named(path):
        return from_pytorch(component, data)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Prefix errors about settings with the path of their file."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    except TypeError as e:
        raise InputError(f"{path}: a setting has the wrong type ({e})") from None


def weight_file_names(network: str) -> list[str]:
    """Names that a network's weight file, or its index of several files, may have, the preferred one first."""
    return [WEIGHTS_NAMES[network] + ending for variant in VARIANTS for ending in _endings(variant)]


def _files_of_weights(network: str, folder: Path) -> list[Path]:
    """Existing weight files and indices of a network, the preferred one first; each stands for all weights."""
    return [path for name in weight_file_names(network) if os.path.lexists(path := folder / name)]


def _endings(variant: str) -> tuple[str, ...]:
    """Endings of the files of a variant; one file before an index of several.

    diffusers and transformers put the variant before ".json" in the name of an index; some uploads have it where the name of a
    single file has it.
    """
    index = ".safetensors.index"
    return tuple(dict.fromkeys((f"{variant}.safetensors", f"{index}{variant}.json", f"{variant}{index}.json")))


def files_of_index(index: Path) -> tuple[Path, ...]:
    """The files that an index of several files names."""
    weight_map = read_json(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{index}: has no weight_map, expected one from tensor names to the names of files beside it")
    return tuple(index.parent / name for name in sorted(set(names)))
