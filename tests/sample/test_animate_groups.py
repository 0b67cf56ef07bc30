"""`sample.animate` on several devices: the mesh for clips of several sizes, groups of clips, a group that fails."""

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
from svdjax.errors import InputError
from svdjax.media import video
from svdjax.media.output_plan import OutputPlan
from svdjax.parallel import sampling_mesh
from svdjax.parallel.mesh import SAMPLING_AXES, parse_mesh
from svdjax.sampling import generation
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


class Sampler:
    """Replaces the model, for eight clips at a time: clips whose frame is white fail. It counts seconds instead of taking them.

    Attributes:
        now: seconds; every round takes 40 s, the first one 240 s.
        batches: number of images of each round.
    """

    def __init__(self):
        self.now = 0.0
        self.batches: list[int] = []

    def sample_image(self, model, images, settings, **options):
        self.now += 40 if self.batches else 240
        self.batches.append(len(images))
        if (images == 255).any():
            raise FloatingPointError("latents are not finite")
        return images

    def make(self, clips: list[Clip]) -> None:
        model, sizes = SimpleNamespace(config=SVDConfig()), {one.size for one in clips}
        request = SimpleNamespace(clips=clips, mesh=None, decode_chunk=None, rate=7)
        animate.make(request, model, dict.fromkeys(sizes), 25)


@pytest.fixture
def sampler(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = Sampler()
    monkeypatch.setattr(animate, "clips_together", lambda mesh, batch: 8)
    monkeypatch.setattr(animate, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(generation, "sample_image", made.sample_image)
    monkeypatch.setattr(generation, "decode", lambda model, images, *options: images[:, None])
    monkeypatch.setattr(video, "write_video", lambda output, *given: output.path.touch())
    return made


def test_a_clip_that_fails_costs_no_other_of_its_group(sampler, capsys):
    """The others are made alone, in the program of the group: with as many clips."""
    clips = [clip(str(k), (64, 64)) for k in range(10)]
    clips[3].first[:] = 255
    with pytest.raises(InputError, match=r"^latents are not finite: \S*3.mp4 was not written; try [^;]*$"):
        sampler.make(clips)
    assert sorted(path.stem for path in Path.cwd().iterdir()) == [*"012456789"]
    assert sampler.batches == [8] * 10  # the group, its clips, and the other group
    printed = capsys.readouterr()
    assert "0.mp4 (1 to 8 of 10)" in printed.err
    assert "4.mp4 (5 of 10)" in printed.err
    assert "8.mp4 (9 to 10 of 10)" in printed.err
    assert "wrote 7.mp4 in 40 s; 2 clips left, about 40 s\n" in printed.out


def test_the_first_group_compiles(sampler, capsys):
    """Of 100 clips, 84 are left after the second group, in 11 rounds."""
    sampler.make([clip(str(k), (64, 64)) for k in range(100)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[7] == "wrote 7.mp4 in 30 s; 92 clips left, about 48 min"
    assert lines[15] == "wrote 15.mp4 in 5 s; 84 clips left, about 7 min"
    assert lines[98] == "wrote 98.mp4 in 10 s; 1 clip left"
