"""The queue: one job at a time, waiting, cancelling, errors, one model in memory."""

from __future__ import annotations

import numpy as np
import pytest

from sample.page import jobs, models, status
from sample.page.jobs import CANCELLED, DONE, FAILED, SAMPLING, WAITING
from svdjax.errors import InputError


def test_a_video_is_made(page, sampler, files, values, wait):
    job = page.submit(files, values(page, seed=4), "tab")
    for done in (1, 2):
        sampler.allowed.release()
        wait(lambda done=done: job.done == done)
        assert job.state == SAMPLING
        assert (job.frames == round(255 * done / 3)).all()
        html = status.of_job(job, page.queue)
        assert f"Evaluation {done} of 3" in html
        assert "data:image/webp" in html
    assert " left" in html
    sampler.allowed.release()
    wait(lambda: job.state == DONE)
    assert (job.folder / "inbetween.mp4").stat().st_size
    assert (job.folder / "sheet.png").stat().st_size
    assert " s, shown 6 times larger." in status.of_job(job, page.queue)
    assert "25 evaluations of the model, about" in page.describe(files, values(page))[1]  # an evaluation was timed


@pytest.mark.parametrize(("shape", "shown"), [((8, 9, 16, 3), 8), ((241, 72, 128, 3), 81), ((25, 1000, 8, 3), 13)])
def test_previews_of_any_length_fit_a_picture(page, files, shape, shown, values):
    job = page.submit(files, values(page), "tab")
    job.frames = np.zeros(shape, np.uint8)
    assert f"steps({shown},jump-none)" in status.of_job(job, page.queue)


def test_a_second_job_waits(page, sampler, files, values, wait):
    first, second, third = (page.submit(files, values(page), tab) for tab in "abc")
    sampler.allowed.release(2)
    wait(lambda: first.done == 2)
    assert second.state == WAITING
    assert "Waiting: 1 video is made first, " in status.of_job(second, page.queue)
    assert "Waiting: 2 videos are made first" in status.of_job(third, page.queue)
    page.cancel("b")
    assert second.state == CANCELLED
    assert "Waiting: 1 video is" in status.of_job(third, page.queue)
    sampler.allowed.release(4)
    wait(lambda: third.state == DONE)
    assert first.state == DONE
    assert second.done == 0
    assert sampler.loaded == ["backward"]


def test_a_running_job_is_cancelled_after_the_evaluation(page, sampler, files, values, wait):
    job = page.submit(files, values(page), "tab")
    sampler.allowed.release()
    wait(lambda: job.done == 1)
    page.cancel("tab")
    assert "Cancelling" in status.of_job(job, page.queue)
    sampler.allowed.release()
    wait(lambda: job.state == CANCELLED)
    assert job.done == 1
    assert not list(job.folder.iterdir())
    page.cancel("tab")  # nothing to cancel


def test_another_model_replaces_the_first(page, sampler, files, values, wait):
    sampler.allowed.release(6)
    for method in ("no-rotation", ""):
        job = page.submit(files, values(page, method=method), "tab")
        wait(lambda job=job: job.state == DONE)
    assert sampler.loaded == ["backward_no_rotation", "backward"]


def test_clips_of_another_size_are_planned_for_the_loaded_model(page, sampler, files, monkeypatch, values, wait):
    planned = []

    def plan_for(*_):
        planned.append(1)
        if len(planned) == 2:
            raise InputError("memory is 1, expected more")

    monkeypatch.setattr(models, "plan_for", plan_for)
    for changes, plans, loads in (
        ({}, 0, 1),
        ({"seed": 5, "motion": 9, "fps": 3}, 0, 1),
        ({"size": "96x64"}, 1, 1),
        ({"size": "96x64"}, 1, 1),
        ({"size": "64x96"}, 3, 2),  # doesn't fit beside the networks: planned without them, and the model is loaded again
    ):
        sampler.allowed.release(3)
        job = page.submit(files, values(page, **changes), "tab")
        wait(lambda job=job: job.state == DONE)
        assert (len(planned), len(sampler.loaded)) == (plans, loads)


@pytest.mark.parametrize("error", [FloatingPointError("latents are not finite after evaluation 1 of 3"), MemoryError("x")])
def test_errors_are_one_line(page, sampler, files, error, values, wait):
    sampler.error = error
    job = page.submit(files, values(page), "tab")
    sampler.allowed.release()
    wait(lambda: job.state == FAILED)
    assert str(error) in job.error
    assert 'role="alert"' in status.of_job(job, page.queue)


def test_a_fault_of_the_program_does_not_end_the_page(page, sampler, files, capsys, values, wait):
    sampler.error = ZeroDivisionError("<b>")
    job = page.submit(files, values(page), "tab")
    sampler.allowed.release()
    wait(lambda: job.state == FAILED)
    assert "ZeroDivisionError: &lt;b&gt; (a fault of the program" in status.of_job(job, page.queue)
    assert "Traceback" in capsys.readouterr().err
    sampler.error = None
    sampler.allowed.release(3)
    again = page.submit(files, values(page), "tab")
    wait(lambda: again.state == DONE)


def test_a_full_queue(page, files, monkeypatch, values):
    monkeypatch.setattr(jobs, "MOST_WAITING", 1)
    page.submit(files, values(page), "a")
    page.submit(files, values(page), "b")
    with pytest.raises(InputError, match="1 videos are waiting already"):
        page.submit(files, values(page), "c")
    assert len(list(page.folder.iterdir())) == 2  # the refused job left nothing
