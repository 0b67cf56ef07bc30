"""Models by their names on the Hugging Face hub: download the files that are needed, or find them in the hub's cache.

The hub's own client (extra `hub`) does the work, with its cache, its token and its environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svdjax.checkpoints.recognize import hub_snapshot
from svdjax.diffusers_layout.model_folder import VARIANTS, WEIGHTS_NAMES, files_of_index, weight_file_names
from svdjax.errors import InputError, one_line

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<variant>\w+))?")


def is_name(model: Path) -> bool:
    """Whether a model that a user gave is a name on the hub, such as `stabilityai/stable-video-diffusion-img2vid-xt`.

    A name that exists as a path is a path, and so is a name in a folder that exists.
    """
    named = _NAME.fullmatch(str(model)) and model.suffix not in (".safetensors", ".ckpt")
    return bool(named) and not os.path.lexists(model) and not os.path.lexists(model.parent)


def download(name: Path) -> Path:
    """Download a model's folder in diffusers layout; files in the hub's cache are not downloaded again.

    Of the variants of a network's weights only one is downloaded: that of the name, as in `OWNER/NAME:fp16`; or else one
    that is in the cache; or else the first of `VARIANTS`. Variants that are there already are read in the order of
    `VARIANTS`. Single files with all networks are not downloaded.

    Args:
        name: see `is_name`.

    Returns:
        The folder in the hub's cache.

    Raises:
        InputError: the client isn't installed, no such model, no access to it, or it can't be downloaded and isn't in the
            cache.
    """
    match = _NAME.fullmatch(str(name))
    assert match
    repository, variant = match["repository"], match["variant"]
    if variant is not None and f".{variant}" not in VARIANTS:
        raise InputError(f"{name}: the variant is {variant}, expected one of {', '.join(v[1:] for v in VARIANTS if v)}")
    try:
        import huggingface_hub as client
        from huggingface_hub import constants, errors
    except ImportError:
        raise InputError(
            f'{name}: no such folder; a model of the Hugging Face hub needs huggingface_hub: pip install -e ".[hub]"'
        ) from None
    page = f"{constants.ENDPOINT}/{repository}"
    try:
        return _download(client, repository, variant)
    except InputError:
        raise
    except errors.GatedRepoError:
        advice = f"accept its terms on {page}, then log in with `hf auth login` or set HF_TOKEN"
        raise InputError(f"{name}: is a gated model of the Hugging Face hub: {advice}") from None
    except errors.RepositoryNotFoundError:
        advice = "if it is private, log in with `hf auth login` or set HF_TOKEN"
        raise InputError(f"{name}: no such folder, and no such model on the Hugging Face hub ({page}): {advice}") from None
    except Exception as e:  # the errors of connections differ between versions of the client
        cached = hub_snapshot(Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}")
        if cached is not None:
            return cached
        reason = "HF_HUB_OFFLINE is set" if isinstance(e, errors.OfflineModeIsEnabled) else one_line(e, 200)
        raise InputError(f"{name}: can't be downloaded ({reason}), and is not in the Hugging Face hub's cache") from None


def _download(client: Any, repository: str, variant: str | None) -> Path:
    files = [file.rfilename for file in client.HfApi().model_info(repository).siblings]  # without the retries of listings
    folders = (*WEIGHTS_NAMES, "scheduler", "feature_extractor", "model_index.json")
    small = [file for file in files if file.endswith(".json") and file.split("/")[0] in folders]
    if not any(file.startswith("unet/") for file in small):
        found = [file for file in files if file.endswith(".safetensors")]
        advice = f": download {found[0]} and give the file" if found else ""
        raise InputError(f"{repository}: holds no unet/config.json, expected a model in diffusers layout{advice}")
    folder = Path(client.snapshot_download(repository, allow_patterns=small))
    large = []
    for network in WEIGHTS_NAMES:
        chosen = _weights(client, repository, network, files, variant)
        shards = files_of_index(folder / chosen) if chosen.endswith(".json") else (folder / chosen,)
        large += [path.relative_to(folder).as_posix() for path in shards]
    # the same commit as before, should the model change meanwhile
    return Path(client.snapshot_download(repository, revision=folder.name, allow_patterns=[*small, *large]))


def _weights(client: Any, repository: str, network: str, files: Sequence[str], variant: str | None) -> str:
    """The file of a network's weights to use, or its index."""
    names = [f"{network}/{name}" for name in weight_file_names(network)]
    found = [name for name in names if name in files and (variant is None or f".{variant}." in name)]
    if not found:
        expected = "none of that variant" if variant else f"no {' or '.join(names[:2])}"
        raise InputError(f"{repository}: has {expected} among its files of the {network}")
    cached = [name for name in found if isinstance(client.try_to_load_from_cache(repository, name), str)]
    return (cached or found)[0]
