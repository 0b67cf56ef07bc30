"""A checked command line of `sample.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sample.batches.claims import Claims
from sample.evaluation.clip_folders import Shape
from sample.evaluation.figure_options import FigureOptions
from sample.evaluation.method_models import MethodModel
from sample.other_methods import given_clips
from sample.video_pairs.cut_list import CutRule
from sample.video_pairs.manifest import Manifest
from svdjax.config import SVDConfig
from svdjax.data.sources import DataSettings
from svdjax.sampling import methods
from svdjax.sampling.settings import Settings

CROSS_FADE = "cross-fade"
RECONSTRUCTION = "reconstruction"  # the true frames encoded and decoded: an upper bound for every method with this VAE
NEAREST = "nearest"
RIFE = "rife"
WITHOUT_MODEL = (CROSS_FADE, NEAREST, RIFE)
METHODS = (*methods.METHODS, CROSS_FADE, NEAREST, RIFE, RECONSTRUCTION)
DEFAULT_METHODS = ("dual", "trf", "no-finetune", "no-rotation", "forward", CROSS_FADE, RECONSTRUCTION)


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A checked command line.

    Attributes:
        methods: in the requested order, those of `given` last.
        models: the model of each method that has one.
        given: folders of clips that other programs made, by the names of their methods.
        config: configuration of the models.
        settings: sampler settings that all methods share, such as frames and seed; pair i uses the seed plus i.
        method_settings: all sampler settings of each method in `models`.
        size: (width, height) of the clips.
        count: number of pairs.
        data: the folder of clips and their properties, None for the embedded world.
        cuts: scene cuts of the clips in `data`, unless there is a manifest.
        manifest: the pairs of an earlier evaluation, to be taken again.
        batch_size: pairs sampled together.
        workers: processes that compute metrics.
        dtype: dtype of the computation.
        memory: bytes of the device that the run may use; None without a limit.
        kernels: see `svdjax.kernels.choice`.
        figures: the figures of the report.
        reference: the method from which the differences of the others are computed.
        claims: how the pairs are shared with other processes.
        mesh: devices to divide the pairs over; None for one device.
        out: folder of the results.
    """

    methods: tuple[str, ...]
    models: dict[str, MethodModel]
    given: dict[str, Path]
    config: SVDConfig
    settings: Settings
    method_settings: dict[str, Settings]
    size: tuple[int, int]
    count: int
    data: DataSettings | None
    cuts: CutRule | None
    manifest: Manifest | None
    batch_size: int
    workers: int
    dtype: str
    memory: int | None
    kernels: str
    figures: FigureOptions
    reference: str
    claims: Claims
    mesh: Mesh | None
    out: Path

    @property
    def shape(self) -> Shape:
        """(frames, height, width) of every clip."""
        return self.settings.num_frames, self.size[1], self.size[0]

    def describe_method(self, method: str) -> str:
        """A method and, if it has any, the UNet evaluations for a clip."""
        if method not in self.models or method == RECONSTRUCTION:
            return method
        run = methods.run_of(methods.parse_name(method)[0], self.method_settings[method], self.config.scheduler)
        return f"{method} ({run.evaluations:g} UNet evaluations)"

    def describe(self) -> dict[str, Any]:
        """The compared clips, for JSON: frames, size in pixels, gap and stride in frames, and how other sizes were fitted."""
        width, height = self.size
        facts: dict[str, Any] = {"frames": self.settings.num_frames, "width": width, "height": height}
        facts["gap"] = self.settings.num_frames - 1
        if self.data is not None:
            facts |= {"stride": self.data.stride, "fit": self.data.fit}
        return facts | ({"rule of --clips": given_clips.RULE} if self.given else {})
