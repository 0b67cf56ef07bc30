"""Fuzzing subjects: safetensors files, configurations, checkpoints, and the files of training runs."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
from fuzz_damage import NUMBERS, damaged_bytes, damaged_json
from fuzzing import Subject, answer
from hypothesis import strategies as st
from safetensors.numpy import save

from convert.svd_to_flax import main as convert
from svdjax.checkpoints.checkpoint import Info, read_info, write_info
from svdjax.checkpoints.delta import read_backward_info
from svdjax.checkpoints.manifest import BACKWARD, write_manifest
from svdjax.checkpoints.orbax_trees import restore_tree, save_tree, tree_shapes
from svdjax.checkpoints.safetensors_reader import NUMPY_DTYPES
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.model_folder import open_model, open_weights
from svdjax.loading import find_model
from svdjax.model_sources import trained_kinds_of
from svdjax.presets import TINY
from train.run.metrics_table import read as read_metrics
from train.run.run_folder import read_settings

WEIGHTS = "diffusion_pytorch_model.safetensors"


def subjects(folder: Path, source: Path) -> dict[str, Subject]:
    """The subjects; damaged files are written into `folder`. `source` is a small model in diffusers layout."""
    model = shutil.copytree(source, folder / "model")
    for path in model.rglob("*"):
        path.chmod(0o700)
    configs = {name: json.loads((model / name).read_text()) for name in (
        "unet/config.json", "vae/config.json", "image_encoder/config.json", "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
    )}  # fmt: skip
    tree = folder / "tree"
    arrays = {f"layer.{i}.kernel": np.full((64, 65), i, np.float32) for i in range(3)}
    save_tree(tree, arrays)
    manifests = {"model": manifest(folder / "checkpoint"), "backward": backward_manifest(folder / "backward")}
    run = {"format": "svdjax-run", "version": 1, "settings": {"--seed": 0, "--size": "16x16", "fingerprint": "abc"}}
    return {
        "safetensors headers": Subject(headers(), functools.partial(read_header, folder / "weights"), 100),
        "safetensors bytes": Subject(
            damaged_bytes({WEIGHTS: save(tensors())}), functools.partial(read_weights, folder / "weights"), 40
        ),
        "single files": Subject(
            single_files(), functools.partial(open_single_file, folder / "weights" / "svd.safetensors"), 20
        ),
        "configurations": Subject(damaged_json(configs), functools.partial(open_damaged, model), 100),
        "manifests": Subject(damaged_json(manifests), functools.partial(read_manifests, folder), 40),
        "Orbax trees": Subject(
            damaged_bytes(files_of(tree)), functools.partial(read_tree, folder / "damaged", tree, arrays), 6
        ),
        "run.json": Subject(damaged_json({"run.json": run}), functools.partial(read_run, folder / "run"), 20),
        "metrics.csv": Subject(damaged_bytes(METRICS), functools.partial(read_rows, folder / "run"), 20),
        "conversions": Subject(damaged_bytes(files_of(model)), functools.partial(convert_damaged, model, folder / "out"), 20),
    }


METRICS = {"metrics.csv": b"step,loss,grad_norm,seconds\n1,0.5,1.25,0.1\n2,0.25,1.5,0.1\n3,0.125,1.0,0.1\n"}


def tensors() -> dict[str, np.ndarray]:
    return {f"layer.{i}.weight": np.full((2, 3), i, np.float16 if i else np.float32) for i in range(4)}


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A safetensors file with numbers at limits, other types, and changed names in its header."""
    data = save(tensors())
    length = int.from_bytes(data[:8], "little")
    _, text = draw(damaged_json({"header": json.loads(data[8 : 8 + length])}))
    claimed = draw(st.just(len(text)) | st.sampled_from(NUMBERS) | st.integers(0, 2 * len(text)))
    return claimed.to_bytes(8, "little") + text + data[8 + length :]


with np.load(Path(__file__).parents[1] / "data" / "original_layout.npz") as recorded:
    SINGLE_FILE: dict[str, list[int]] = json.loads(recorded["tiny"].tobytes())  # shapes of the tensors of a small model


@st.composite
def single_files(draw: st.DrawFn) -> bytes:
    """The header of a model in one file, with numbers at limits and changed names."""
    header, stop = {}, 0
    for name, shape in SINGLE_FILE.items():
        start, stop = stop, stop + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
    _, text = draw(damaged_json({"header": header}))
    return len(text).to_bytes(8, "little") + text


def open_single_file(path: Path, header: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(header)
    os.truncate(path, len(header) + 4 * sum(math.prod(shape) for shape in SINGLE_FILE.values()))
    found = answer(find_model, path, folder=path.parent)
    assert found is None or SVDConfig.from_json(json.loads(json.dumps(found.config.to_json()))) == found.config


def read_header(folder: Path, data: bytes) -> None:
    read_weights(folder, (WEIGHTS, data))


def read_weights(folder: Path, damaged: tuple[str, bytes]) -> None:
    name, data = damaged
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    answer(_read_weights, folder, folder=folder)


def _read_weights(folder: Path) -> None:
    weights = open_weights("unet", folder)
    for name, value in weights.stream(lambda _: None):
        if (dtype := weights.tensors[name].dtype) in NUMPY_DTYPES:
            assert value.dtype == NUMPY_DTYPES[dtype]
            assert value.shape == weights.tensors[name].shape
            np.testing.assert_array_equal(weights.read(name), value)


def open_damaged(model: Path, damaged: tuple[str, bytes]) -> None:
    """Open a model with a damaged configuration."""
    name, data = damaged
    before = (model / name).read_bytes()
    (model / name).write_bytes(data)
    try:
        found = answer(open_model, model, folder=model)
        assert found is None or SVDConfig.from_json(json.loads(json.dumps(found.config.to_json()))) == found.config
    finally:
        (model / name).write_bytes(before)


def manifest(folder: Path) -> dict[str, Any]:
    """Write a checkpoint of one small file, and return its `config.json`."""
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "data").write_bytes(b"data")
    info = {"trained": ["to_v.kernel"], "sources": {"unet": "abc"}}
    write_info(folder, Info(TINY, "float32", info, {"unet": "abc"}))
    return json.loads((folder / "config.json").read_text())


def backward_manifest(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    write_manifest(folder, BACKWARD, {"dtype": "float16", "backward": {"trained": ["to_v.kernel"], "sources": {"unet": "abc"}}})
    return json.loads((folder / "config.json").read_text())


def read_manifests(folder: Path, damaged: tuple[str, bytes]) -> None:
    kind, data = damaged
    path = folder / ("checkpoint" if kind == "model" else "backward")
    (path / "config.json").write_bytes(data)
    info = answer(read_info, path, folder=path)
    assert info is None or (isinstance(info.sources, dict) and info.dtype in ("float32", "bfloat16", "float16"))
    backward = answer(read_backward_info, path, folder=path)
    kinds = answer(trained_kinds_of, path, folder=path)
    assert backward is None or list(kinds) == backward["trained"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_tree(copy: Path, tree: Path, arrays: Mapping[str, np.ndarray], damaged: tuple[str, bytes]) -> None:
    """Read a tree with one damaged file; its numbers may differ then, for the format has no check of them."""
    name, data = damaged
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tree, copy)
    (copy / name).write_bytes(data)
    shapes = answer(tree_shapes, copy)
    if shapes is not None:
        expected = tree_shapes(tree)
        found = answer(restore_tree, copy, expected)
        assert found is None or {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in arrays.items()}


def read_run(folder: Path, damaged: tuple[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(damaged[1])
    settings = answer(read_settings, folder, folder=folder)
    assert settings is None or isinstance(settings, dict)


def read_rows(folder: Path, damaged: tuple[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_bytes(damaged[1])
    table = answer(read_metrics, folder / "metrics.csv", folder=folder)
    assert table is not None
    assert all(isinstance(row.step, int) and isinstance(row.loss, float) for row in table.rows)


def convert_damaged(model: Path, out: Path, damaged: tuple[str, bytes]) -> None:
    """Convert a model with one damaged file: a whole checkpoint, or one line and nothing."""
    name, data = damaged
    before = (model / name).read_bytes()
    (model / name).write_bytes(data)
    try:
        status = fuzzing.command_status(convert, [str(model), str(out)])
        assert os.path.lexists(out) is (status == 0)
        assert not [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    finally:
        (model / name).write_bytes(before)
        shutil.rmtree(out, ignore_errors=True)
