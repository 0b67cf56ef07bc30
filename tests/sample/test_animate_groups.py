"""`sample.animate` on several devices: the mesh for clips of several sizes, and the groups that are sampled together."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from sample import animate, animation_options
from sample.animation_options import Clip
from svdjax.config import SVDConfig
from svdjax.media.output_plan import OutputPlan
from svdjax.parallel import sampling_mesh
from svdjax.parallel.mesh import SAMPLING_AXES, parse_mesh
from svdjax.sampling.settings import Settings

LANDSCAPE, PORTRAIT = (1024, 576), (576, 1024)


def clip(name: str, size: tuple[int, int]) -> Clip:
    return Clip(np.zeros((size[1], size[0], 3), np.uint8), Settings(), OutputPlan(Path(f"{name}.mp4"), ".mp4", False), {})


@pytest.fixture
def eight_devices(monkeypatch):
    def abstract(sizes):
        axes = (AxisType.Auto,) * len(SAMPLING_AXES)
        return AbstractMesh(tuple(sizes.get(axis, 1) for axis in SAMPLING_AXES), SAMPLING_AXES, axis_types=axes)

    default_sizes = sampling_mesh.default_sizes
    monkeypatch.setattr(sampling_mesh, "default_mesh", lambda frames, devices: abstract(default_sizes(8, frames)))
    monkeypatch.setattr(sampling_mesh, "sampling_mesh", lambda spec, devices: abstract(parse_mesh(spec, SAMPLING_AXES)))


@pytest.mark.parametrize(
    ("many", "mesh", "expected"),
    [
        (9, None, {"data": 3, "guidance": 2}),  # three rounds; four clips at a time need as many
        (99, None, {"data": 4, "guidance": 2}),
        (9, "data=8", {"data": 8}),
    ],
)
def test_one_clip_of_another_size_idles_no_device(eight_devices, many, mesh, expected):
    clips = [clip(str(k), LANDSCAPE) for k in range(many)]
    clips.insert(5, clip("other", PORTRAIT))
    args = argparse.Namespace(mesh=mesh, memory=None, kernels="xla", dtype="bfloat16", num_frames=None)
    found = animation_options.choose_mesh(args, SimpleNamespace(config=SVDConfig()), clips)
    assert {axis: size for axis, size in found.shape.items() if size > 1} == expected


def test_clips_of_one_size_are_grouped_whatever_their_order():
    clips = [clip(name, size) for name, size in zip("abcde", (LANDSCAPE, PORTRAIT) * 2 + (LANDSCAPE,), strict=True)]
    assert names(animate.groups(clips[:4], 8)) == ["ac", "bd"]
    assert names(animate.groups(clips, 2)) == ["ac", "e", "bd"]
    assert names(animate.groups(clips, 1)) == [*"acebd"]


def names(groups) -> list[str]:
    return ["".join(one.output.path.stem for one in group) for group in groups]
