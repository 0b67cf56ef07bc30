"""The one model in memory: when it is loaded again, and what is left of it then."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest

from sample.page import models
from sample.page.jobs import DONE, FAILED
from sample.page.models import Models
from svdjax.errors import InputError


def test_a_job_that_does_not_fit_keeps_the_model(page, sampler, files, values, wait, monkeypatch):
    """Neither with the networks on the device nor in host memory."""
    planned = []

    def plan_for(work, memory):
        planned.append(work.model)
        if len(planned) <= 2:
            raise InputError("memory is 1 GiB, expected more")

    monkeypatch.setattr(models, "plan_for", plan_for)
    sampler.allowed.release(100)
    for size, state in (("64x64", DONE), ("96x64", FAILED), ("64x64", DONE), ("64x96", DONE)):
        job = page.submit(files, values(page, size=size), "tab")
        wait(lambda job=job: job.state in (DONE, FAILED))
        assert (job.state, len(sampler.loaded)) == (state, 1)
    assert planned[1] == "shapes"
    assert planned[0] is planned[2] != "shapes"


@pytest.mark.parametrize("change", [{"method": "no-rotation"}, {"size": "64x96"}])
def test_the_old_model_is_gone_before_another_is_loaded(page, sampler, files, values, wait, monkeypatch, change):
    """Also if its clips were planned with it: new programs are compiled in the memory that it had."""
    refused = []

    def plan_for(work, memory):
        if work.model != "shapes":
            refused.append(weakref.ref(work.model))
            raise InputError("memory is 1 GiB, expected more")

    monkeypatch.setattr(models, "plan_for", plan_for)
    sampler.allowed.release(100)
    found, original = [], Models.get

    def get(self, request):
        made = original(self, request)
        found.append(weakref.ref(made[0]))
        return made

    monkeypatch.setattr(Models, "get", get)

    def gone():
        gc.collect()
        assert not [each for each in (*found, *refused) if each() is not None]

    sampler.before_loading = gone
    for changes in ({}, change):
        job = page.submit(files, values(page, **changes), "tab")
        wait(lambda job=job: job.state in (DONE, FAILED))
        assert job.state == DONE, job.error
    assert len(sampler.loaded) == 2
    assert len(refused) == (change.keys() == {"size"})


def test_another_mesh_gets_a_copy_of_the_model(page, sampler, files, values, wait, monkeypatch):
    """The number of keyframes decides the mesh; a model on one device is loaded again, because it may be planned."""
    copied = []

    def on_mesh(model, mesh):
        copied.append(mesh)
        return model

    monkeypatch.setattr(models.pipeline, "on_mesh", on_mesh)
    request, found = page.submit(files, values(page), "tab").request, Models(None)
    wait(lambda: sampler.loaded)  # by the job itself
    sampler.loaded.clear()
    for mesh, loads, copies in (
        ("a", 1, []),
        ("a", 1, []),
        ("b", 1, ["b"]),
        ("b", 1, ["b"]),
        (None, 2, ["b"]),
        ("a", 3, ["b"]),
    ):
        _, plan = found.get(dataclasses.replace(request, mesh=mesh))
        assert (len(sampler.loaded), copied, plan) == (loads, copies, None)
