"""The one model in memory of the page, and the plans of its clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from pathlib import Path

from jax.sharding import Mesh

from sample import planned_model
from sample.batches.request import InterpolationRequest
from svdjax import pipeline
from svdjax.errors import InputError
from svdjax.models.svd import SVD
from svdjax.sampling.clip_plan import ClipPlan, plan_for
from svdjax.sampling.clip_work import ClipWork

Size = tuple[int, int]  # width, height


class Models:
    """The one model in memory, and the plans of its clips.

    Args:
        memory: GiB of the device that a run may use; None for what it has.
    """

    def __init__(self, memory: float | None):
        self._memory = memory
        self._key: tuple[Path, Path | None] | None = None
        self._mesh: Mesh | None = None
        self._model: SVD | None = None
        self._plans: dict[Hashable, ClipPlan | None] = {}

    def get(self, request: InterpolationRequest) -> tuple[SVD, ClipPlan | None]:
        """The loaded model and the plan of a request's clips.

        Raises:
            InputError: a damaged model, or too little memory; the loaded model is kept if clips don't fit with it.
        """
        height, width, _ = request.keyframes[0].shape
        size, mesh = (width, height), request.mesh
        key = request.model.folder, request.backward or getattr(request.model, "backward", None)
        settings = dataclasses.replace(request.settings, seed=0, fps=1, motion_bucket_id=0, noise_aug_strength=0)
        kind = size, request.method, settings, request.factor
        if self._model is not None and self._key == key:
            if mesh is not None and self._mesh is not None:
                if mesh != self._mesh:  # the number of clips is another: copied between the devices, not read again
                    self._model, self._mesh = pipeline.on_mesh(self._model, mesh), mesh
                return self._model, None
            if mesh == self._mesh and self._fits(request, size, kind):
                return self._model, self._plans[kind]
        self._key, self._mesh, self._model, self._plans = None, None, None, {}  # first: two models may not fit
        options = {"backward": request.backward, "method": request.method, "preview": True, "mesh": mesh}
        options["rate"] = request.factor
        model, plans = planned_model.load(request.model, request.dtype, request.memory, request.settings, [size], **options)
        self._key, self._mesh, self._model, self._plans = key, mesh, model, {kind: plans[size]}
        return model, plans[size]

    def _fits(self, request: InterpolationRequest, size: Size, kind: Hashable) -> bool:
        """Whether clips fit with the model as it is loaded; they are planned then. No reference to it is left.

        Raises:
            InputError: they don't fit with its networks in host memory either.
        """
        if kind in self._plans:
            return True
        assert self._model is not None
        options = {"settings": request.settings, "method": request.method, "preview": True, "rate": request.factor}
        work = ClipWork(model=self._model, size=size, **options)
        try:
            self._plans[kind] = plan_for(work, self._memory)
        except InputError:
            plan_for(dataclasses.replace(work, model=work.shapes), self._memory)  # shapes: for networks in host memory
            return False
        return True
