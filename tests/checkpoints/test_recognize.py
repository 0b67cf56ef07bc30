"""What users give in place of a model: the line says what it is and what to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjax.errors import InputError
from svdjax.loading import checkpoint_folder, find_model, locate
from svdjax.model_sources import trained_kinds_of


def write(path: Path, **data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def hub(folder: Path, *snapshots: str, main: str | None = None) -> Path:
    """A model in the cache of the Hugging Face hub."""
    model = folder / "models--stabilityai--svd"
    for name in snapshots:
        write(model / "snapshots" / name / "model_index.json")
    (model / "blobs").mkdir()
    (model / "refs").mkdir()
    if main:
        (model / "refs" / "main").write_text(main)
    return model


def orbax(folder: Path) -> Path:
    write(folder / "config.json", format="svdjax-model")
    write(folder / "unet" / "_METADATA")
    return folder / "unet"


def run(folder: Path, *parts: str) -> Path:
    write(folder / "run.json")
    for part in parts:
        (folder / part).mkdir()
    return folder


def part_of_a_model(folder: Path) -> Path:
    write(folder / "model_index.json")
    return write(folder / "unet" / "config.json", _class_name="UNetSpatioTemporalConditionModel").parent


HINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "hub, many": (lambda f: hub(f, "abc", "xyz"), r"give one of the folders in {f}/models--.*/snapshots \(abc, xyz\)$"),
    "cache of the hub": (
        lambda f: hub(f, "abc").parent,
        r"is the cache of the Hugging Face hub, .*\(models--stabilityai--svd\)$",
    ),
    "folder above a model": (
        lambda f: (write(f / "in" / "svd" / "model_index.json"), f / "in")[1],
        "/in: holds a model in a folder of its own, expected .*: give {f}/in/svd$",
    ),
    "folder above models": (
        lambda f: (
            write(f / "in" / "a" / "config.json", format="svdjax-model"),
            write(f / "in" / "b" / "model_index.json"),
            f / "in",
        )[2],
        r"/in: holds models \(a, b\), expected .*: give one of them$",
    ),
    "one part": (
        lambda f: part_of_a_model(f / "svd"),
        r"/svd/unet: is one part of a model \(UNetSpatioTemporalConditionModel\), expected .*: give {f}/svd$",
    ),
    "single files": (
        lambda f: (write(f / "in" / "svd.safetensors"), write(f / "in" / "svd_xt.safetensors").parent)[1],
        r"/in: holds svd.safetensors, svd_xt.safetensors without a configuration, expected .*: give the file of a whole model$",
    ),
    "archive": (lambda f: write(f / "svd.zip"), "/svd.zip: is an archive that has to be unpacked, expected a diffusers folder"),
    "pickle": (lambda f: write(f / "svd.ckpt"), "/svd.ckpt: .ckpt files are pickles"),
    "Orbax tree": (lambda f: orbax(f / "m"), "/m/unet: is an Orbax tree without a configuration, expected .*: give {f}/m$"),
    "run of train.base": (lambda f: run(f, "model"), "is the folder of a training run, expected .*: give {f}/model$"),
    "run of train.backward": (lambda f: run(f, "backward"), "a training run, expected .*: give {f}/backward as --backward$"),
    "run without weights": (lambda f: run(f), "a training run, expected .*: it holds no trained weights yet$"),
    "backward weights": (
        lambda f: write(f / "b" / "config.json", format="svdjax-backward").parent,
        "/b: holds backward weights of train.backward, expected a folder that convert.svd_to_flax or train.base writes$",
    ),
}


@pytest.mark.parametrize("name", HINTS)
def test_hints(tmp_path, name):
    make, message = HINTS[name]
    given = make(tmp_path)
    with pytest.raises(InputError, match=message.replace("{f}", str(tmp_path))) as caught:
        find_model(given)
    assert str(caught.value).startswith(f"{given}: ")


def test_current_snapshots_of_the_hub_are_found(tmp_path):
    for number, (names, main) in enumerate([(("abc",), None), (("abc", "xyz"), "xyz\n")]):
        model = hub(tmp_path / str(number), *names, main=main)
        for given in (model, model / "snapshots"):
            assert locate(given) == model / "snapshots" / names[-1]


def test_hints_where_backward_weights_are_expected(tmp_path):
    (tmp_path / "backward").mkdir()
    with pytest.raises(InputError, match=f"a training run, expected .*: give {tmp_path}/backward as --backward$"):
        trained_kinds_of(run(tmp_path))


def test_training_from_a_diffusers_folder(tmp_path):
    write(tmp_path / "model_index.json")
    with pytest.raises(
        InputError, match=f"is a diffusers folder, expected a checkpoint; run python -m convert.svd_to_flax {tmp_path}"
    ):
        checkpoint_folder(tmp_path)
