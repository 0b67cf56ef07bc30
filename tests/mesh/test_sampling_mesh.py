"""`--mesh` of sampling: what is refused, and the default division."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from sample import planned_model
from sample.benchmarking import options as benchmark_options
from sample.benchmarking.options import BenchmarkOptions
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.parallel import sampling_mesh
from svdjax.parallel.divided import shares
from svdjax.parallel.mesh import SAMPLING_AXES, parse_mesh
from svdjax.parallel.sampling_mesh import Frames, check_frames, clips_together, default_sizes
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import Settings

FULL = Frames(pairs=1, guided=True, sizes=((1024, 576),), pixels=64)  # of SVD


def abstract(**sizes: int) -> AbstractMesh:
    return AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in SAMPLING_AXES), SAMPLING_AXES, axis_types=(AxisType.Auto,) * len(SAMPLING_AXES)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor=2", "--mesh tensor=2: unknown axis 'tensor', expected data, guidance, rows, columns, fsdp"),
        ("rows=2", "--mesh rows=2: 576 pixels are 9 rows at the UNet's lowest level, expected one of 1, 3, 9"),
        (
            "columns=3",
            "--mesh columns=3: 1024 pixels are 16 columns at the UNet's lowest level, expected one of 1, 2, 4, 8, 16",
        ),
        ("guidance=3", "--mesh guidance=3: expected 2, predictions without and with conditioning, or 1"),
        ("data=2", "--mesh data=2: there is work for 1 clip at a time, expected at most 1"),
    ],
)
def test_refused(text, message):
    with pytest.raises(InputError) as e:
        check_frames(parse_mesh(text, SAMPLING_AXES), FULL)
    assert str(e.value) == message


def test_guidance_needs_a_run_with_guidance():
    with pytest.raises(InputError, match="--mesh guidance=2: the run has no guidance, expected rows or columns instead"):
        check_frames({"guidance": 2}, Frames(pairs=1, guided=False, sizes=((1024, 576),), pixels=64))


def test_several_sizes_must_all_be_divided():
    sizes = ((1024, 576), (576, 1024))
    with pytest.raises(InputError, match=r"columns=2: 576 pixels are 9 columns, 1024 pixels are 16 columns at .* one of 1$"):
        check_frames({"columns": 2}, Frames(pairs=1, guided=True, sizes=sizes, pixels=64))


@pytest.mark.parametrize("sizes", [{"columns": 16}, {"rows": 9, "columns": 2}, {"guidance": 2, "columns": 8}, {"fsdp": 8}])
def test_accepted(sizes):
    check_frames(sizes, FULL)


@pytest.mark.parametrize(
    ("devices", "pairs", "sizes"),
    [
        (1, 9, {}),
        (2, 1, {"guidance": 2}),
        (4, 1, {"guidance": 2, "columns": 2}),
        (8, 1, {"guidance": 2, "columns": 4}),
        (6, 1, {"guidance": 2, "rows": 3}),
        (5, 1, {"guidance": 2, "columns": 2}),  # one device has no work
        (8, 200, {"data": 8}),
        (8, 4, {"data": 4, "guidance": 2}),
        (2, 3, {"guidance": 2}),  # in pairs of clips, a device would wait in the second round
    ],
)
def test_default(devices, pairs, sizes):
    frames = Frames(pairs=pairs, guided=True, sizes=FULL.sizes, pixels=64)
    assert default_sizes(devices, frames) == sizes


def test_default_without_guidance():
    assert default_sizes(4, Frames(pairs=1, guided=False, sizes=FULL.sizes, pixels=64)) == {"columns": 4}


def test_shares():
    """Devices of `guidance` divide pixels where there is one condition; what doesn't divide is computed by all."""
    mesh = abstract(guidance=2, rows=2, columns=2)
    both = shares(mesh, 1, 2, (16, 16), 4)
    assert (both.guidance, both.pixels.rows.axes, both.pixels.columns.axes) == (("guidance",), ("rows",), ("columns",))
    one = shares(mesh, 1, 1, (16, 16), 4)
    assert (one.guidance, one.pixels.rows.axes, one.pixels.columns.axes) == ((), ("rows",), ("guidance", "columns"))
    assert one.pixels.columns.count == 4
    assert shares(mesh, 1, 1, (16, 24), 8).pixels.columns.count == 1
    assert shares(abstract(data=2), 3, 2, (16, 16), 4).batch == ()
    assert shares(abstract(data=2), 4, 2, (16, 16), 4).batch == ("data", "fsdp")


def test_clips_together():
    assert [clips_together(abstract(data=4), batch) for batch in (1, 2, 4, 3)] == [4, 2, 1, 4]
    assert clips_together(None, 1) == 1


def options(mesh: str | None = None, memory: float | None = None, kernels: str = "xla") -> argparse.Namespace:
    return argparse.Namespace(mesh=mesh, memory=memory, kernels=kernels, dtype="bfloat16")


def choose(args: argparse.Namespace, clips: int = 1, shapes: Sequence[planned_model.Shape] = ((1024, 576, 25),)):
    config = SVDConfig()
    return planned_model.choose_mesh(args, config, [run_of("dual", Settings(), config.scheduler)], shapes, clips)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (options("guidance=2", memory=8), "--mesh guidance=2: a plan within --memory is for one device"),
        (options("guidance=2", kernels="pallas"), "--mesh guidance=2: --kernels pallas runs on one device"),
        (options("data=2"), "there is work for 1 clip at a time"),
    ],
)
def test_options_that_need_one_device(monkeypatch, args, message):
    monkeypatch.setattr(sampling_mesh, "sampling_mesh", lambda spec, devices: abstract(**parse_mesh(spec, SAMPLING_AXES)))
    with pytest.raises(InputError, match=message):
        choose(args)


def test_one_device_needs_no_mesh():
    """Without `--mesh` on one device, and with a memory limit or kernels for one device on any number of them."""
    assert len(jax.local_devices()) == 1
    assert choose(options()) is None
    assert choose(options("data=1")) is None


@pytest.mark.parametrize("args", [options(memory=8), options(kernels="pallas")])
def test_default_with_options_for_one_device(monkeypatch, args):
    monkeypatch.setattr(sampling_mesh, "default_mesh", lambda frames, devices: pytest.fail("a mesh was chosen"))
    assert choose(args) is None


def simulate(monkeypatch: pytest.MonkeyPatch, gib: float, devices: int) -> None:
    """Devices of `gib` GiB, and SVD-XT."""
    monkeypatch.setattr(planned_model.memory_option, "start", lambda memory: int(gib * 2**30))
    monkeypatch.setattr(planned_model, "_network_bytes", lambda config, dtype: (4_704_000_000, 2, 4))
    monkeypatch.setattr(sampling_mesh, "default_mesh", lambda frames, _: abstract(**default_sizes(devices, frames)))


@pytest.mark.parametrize(
    ("gib", "clips", "chosen"),
    [
        (140, 8, {"data": 8}),
        (10.5, 8, {"guidance": 2, "columns": 4}),  # eight clips, each on one device, need a plan
        (6.7, 8, None),  # one device with a plan
    ],
)
def test_default_fits_the_devices(monkeypatch, gib, clips, chosen):
    simulate(monkeypatch, gib, devices=8)
    mesh = choose(options(), clips)
    assert chosen == (mesh and {axis: size for axis, size in mesh.shape.items() if size > 1})


@pytest.mark.parametrize(
    ("shapes", "divided"),
    [
        ([(1024, 576, 25)], True),
        ([(1024, 576, 25), (1024, 576, 100)], False),
        ([(1024, 576, 25), (448, 256, 100)], True),  # in all fewer pixels than the first
    ],
)
def test_the_longest_clip_must_fit(monkeypatch, shapes, divided):
    """On two devices of 16 GiB, 25 frames need 11 GiB and 100 frames 25 GiB. Rows of a table may have their own number."""
    simulate(monkeypatch, 16, devices=2)
    assert (choose(options(), shapes=shapes) is not None) is divided


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "rows=2"], "--mesh rows=2: 576 pixels are 9 rows at the UNet's lowest level, expected one of 1, 3, 9"),
        (["--mesh", "tensor=2"], "unknown axis 'tensor', expected data, guidance, rows, columns, fsdp"),
        (["--mesh", "columns=2", "--memory", "20"], "--mesh columns=2: --memory plans for one device"),
        (["--mesh", "columns=2", "--method", "dual"], "--mesh columns=2: --method plans for one device"),
        (["--mesh", "data=12"], "12 devices, expected at most 8, those of one host, or hosts of 8"),
    ],
)
def test_benchmark_refuses(arguments, message):
    with pytest.raises(InputError) as e:
        benchmark_options.parse(["--target", "h200", *arguments])
    assert message in str(e.value)


def test_benchmark_command():
    parsed, _ = benchmark_options.parse(["--target", "h200", "--mesh", "guidance=2,columns=8"])
    assert isinstance(parsed, BenchmarkOptions)
    assert (parsed.mesh, parsed.training) == ({"guidance": 2, "columns": 8}, None)
    assert benchmark_options.command_line(parsed).endswith("--dtype bfloat16 --mesh guidance=2,columns=8 --target h200")
