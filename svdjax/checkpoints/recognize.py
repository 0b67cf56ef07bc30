"""Recognize what users give in place of a model or of backward weights, to name what they should give."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from svdjax.errors import InputError
from svdjax.runtime.input_files import check_folder, read_json

_MOST_CHILDREN = 1000  # folders that are searched for a model
_PICKLES = (".ckpt", ".bin", ".pt", ".pth")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
_FORMATS = {
    "svdjax-model": "is a checkpoint of svdjax",
    "svdjax-backward": "holds backward weights of train.backward",
}


def check_input_folder(path: Path, expected: str) -> None:
    """Check that a path is a folder that can be entered; if not, say what it is.

    Args:
        path: given by a user.
        expected: what it should be, for the message.

    Raises:
        InputError: it is not there, is a file, or can't be entered.
    """
    if os.path.isfile(path):
        if path.suffix in _PICKLES:
            raise InputError(f"{path}: {pickle_advice(path)}")
        raise InputError(f"{path}: {_describe_file(path)}, expected {expected}")
    if path.suffix == ".safetensors" and not os.path.lexists(path):
        raise InputError(f"{path}: no such file, expected {expected}")
    check_folder(path, expected)


def wrong_folder(path: Path, expected: str, otherwise: str) -> InputError:
    """The error for a folder that holds something else than expected.

    Args:
        path: a folder that can be entered.
        expected: what it should be.
        otherwise: what was found, if the folder is not recognized.
    """
    found, advice = _describe_folder(path) or (otherwise, "")
    return InputError(f"{path}: {found}, expected {expected}{advice and f': {advice}'}")


def pickles(folder: Path) -> list[Path]:
    """Files of a folder that are pickles by their endings."""
    return [folder / name for name in _names(folder) if name.endswith(_PICKLES)]


def pickle_advice(path: Path) -> str:
    """Why a file that is a pickle is not read, and what to do."""
    return (
        f"{path.suffix} files are pickles, which can run code when opened, and are not read: load the model in PyTorch and "
        f"write it with save_pretrained(folder, safe_serialization=True)"
    )


def _describe_file(path: Path) -> str:
    if path.suffix in _ARCHIVES:
        return "is an archive that has to be unpacked"
    if path.suffix == ".safetensors":
        return "is a single file of weights"
    return "is a file"


def _describe_folder(path: Path) -> tuple[str, str] | None:
    """What a folder is, and which folder should be given instead; None if it is not known."""
    names = _names(path)
    return (
        _hub_cache(path, names)
        or _run(path, names)
        or _known_config(path, names)
        or _orbax_tree(path, names)
        or _above_models(path, names)
        or _single_files(names)
    )


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:  # ValueError: a null character
        return sorted(entry.name for entry in itertools.islice(entries, _MOST_CHILDREN))
    return []


def hub_snapshot(path: Path) -> Path | None:
    """The files of a model in the Hugging Face hub's cache: the folder of the current commit, or of the only one.

    Args:
        path: `models--OWNER--NAME`, which has `blobs/`, `refs/` and `snapshots/`, or its `snapshots/`.

    Returns:
        The folder; None if `path` is something else, or holds several commits of which none is current.
    """
    found = _snapshots(path, _names(path))
    return found[1][0] if found and len(found[1]) == 1 else None


def only_file(folder: Path) -> Path | None:
    """The weights of a folder that has one safetensors file and no configuration; None for others."""
    names = _names(folder)
    files = [name for name in names if name.endswith(".safetensors")]
    configured = {"config.json", "model_index.json", "unet"} & {*names}
    return folder / files[0] if len(files) == 1 and not configured else None


def _snapshots(path: Path, names: list[str]) -> tuple[Path, list[Path]] | None:
    """The `snapshots/` of a model in the hub's cache, and the current commit in it, or all commits if none is."""
    if "snapshots" in names and ("blobs" in names or "refs" in names):
        snapshots = path / "snapshots"
    elif path.name == "snapshots" and os.path.isdir(path.parent / "blobs"):
        snapshots = path
    else:
        return None
    found = _names(snapshots)
    with contextlib.suppress(OSError, ValueError):
        current = (snapshots.parent / "refs" / "main").read_text()[:100].strip()
        found = [current] if current in found else found
    return snapshots, [snapshots / name for name in found]


def _hub_cache(path: Path, names: list[str]) -> tuple[str, str] | None:
    """The cache of the Hugging Face hub, or a model in it with several commits."""
    models = [name for name in names if name.startswith("models--")]
    if models:
        return "is the cache of the Hugging Face hub", f"give one of its models ({_some(models)})"
    if (found := _snapshots(path, names)) is None:
        return None
    snapshots, folders = found
    what = "is a folder of the Hugging Face hub's cache"
    return what, f"give one of the folders in {snapshots} ({_some([folder.name for folder in folders])})"


def _run(path: Path, names: list[str]) -> tuple[str, str] | None:
    """The folder of a training run, `OUT` of `train.backward` or `train.base`."""
    if "run.json" not in names or "config.json" in names:
        return None
    for part, option in (("model", ""), ("backward", " as --backward")):
        if part in names:
            return "is the folder of a training run", f"give {path / part}{option}"
    return "is the folder of a training run", "it holds no trained weights yet"


def _known_config(path: Path, names: list[str]) -> tuple[str, str] | None:
    """A folder of svdjax, or a part of a diffusers folder."""
    if "model_index.json" in names or os.path.isfile(path / "unet" / "config.json"):
        return "is a diffusers folder", "run convert.svd_to_flax first"
    if "config.json" not in names:
        return None
    try:
        config = read_json(path / "config.json")
    except InputError:
        return None
    if isinstance(known := config.get("format"), str) and known in _FORMATS:
        return _FORMATS[known], ""
    kind = config.get("_class_name", config.get("model_type"))
    if kind is None:
        return None
    above = path.absolute().parent
    whole = os.path.isfile(above / "model_index.json") or os.path.isdir(above / "unet")
    return f"is one part of a model ({kind})", f"give {above}" if whole else ""


def _orbax_tree(path: Path, names: list[str]) -> tuple[str, str] | None:
    if not any(name in names for name in _ORBAX_FILES):
        return None
    above = path.absolute().parent
    return "is an Orbax tree without a configuration", f"give {above}" if os.path.isfile(above / "config.json") else ""


def _above_models(path: Path, names: list[str]) -> tuple[str, str] | None:
    """A folder that holds models in folders of their own."""
    found = [name for name in names if _is_model(path / name)]
    if not found:
        return None
    what = f"holds models ({_some(found)})" if len(found) > 1 else "holds a model in a folder of its own"
    return what, f"give {path / found[0]}" if len(found) == 1 else "give one of them"


def _is_model(path: Path) -> bool:
    if os.path.isfile(path / "model_index.json") or os.path.isfile(path / "unet" / "config.json"):
        return True
    with contextlib.suppress(InputError):
        return os.path.isfile(path / "config.json") and read_json(path / "config.json").get("format") == "svdjax-model"
    return False


def _single_files(names: list[str]) -> tuple[str, str] | None:
    files = [name for name in names if name.endswith(".safetensors")]
    if files and "config.json" not in names:
        return f"holds {_some(files)} without a configuration", "give the file of a whole model"
    return None


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "empty"
