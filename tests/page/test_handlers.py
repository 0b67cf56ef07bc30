"""A tab of the page: it follows its job, cancels it when it is closed, and shows errors in one line."""

from __future__ import annotations

import asyncio

from PIL import Image

from sample.page.jobs import CANCELLED, DONE


def collect(page, files, chosen, stop=lambda html, job: False):
    async def run():
        found = []
        follow = page.run(files, chosen, "tab")
        async for html, job in follow:
            found.append((html, job))
            if stop(html, job):
                break
        await follow.aclose()
        return found

    return asyncio.run(run())


def test_the_tab_follows_its_job(page, sampler, files, values):
    sampler.allowed.release(3)
    found = collect(page, files, values(page))
    assert found[-1][1].state == DONE
    assert not found[-1][1].folder.exists()  # removed when the page has taken the files


def test_a_closed_tab_cancels_its_job(page, sampler, files, values, wait):
    sampler.allowed.release()
    *_, (_, job) = collect(page, files, values(page), lambda html, job: "Evaluation 1" in html)
    sampler.allowed.release()
    wait(lambda: job.state == CANCELLED)


def test_bad_inputs_are_one_line_without_folders(page, files, tmp_path, values):
    bad = tmp_path / "bad&.png"
    bad.write_text("no image")
    ((html, job),) = collect(page, [files[0], str(bad)], values(page))
    assert job is None
    assert "bad&amp;.png: not an image" in html
    assert str(tmp_path) not in html
    strip, cost, command = page.describe([files[0], str(bad)], values(page))
    assert "bad&amp;.png: not an image" in strip
    assert "25 evaluations of the model" in cost
    assert command == "python -m sample.interpolate a.png 'bad&.png'"
    for changes, line in (
        ({"num_frames": 1}, "num_frames is 1, expected a whole number of at least 2"),
        ({"size": "65x64"}, "size 65x64: both sides must be multiples of 16"),
        ({"steps": "many"}, "argument --steps: invalid int value: &#x27;many&#x27;"),
        ({"method": "forward", "keep_keyframes": True}, "--keep-keyframes: method forward"),
    ):
        ((html, _),) = collect(page, files, values(page, **changes))
        assert line in html
    ((html, _),) = collect(page, files[:1], values(page))
    assert "1 keyframes given, expected at least two" in html
    assert not list(page.folder.iterdir())


def test_the_keyframes_are_shown_as_they_are_fitted(page, files, tmp_path, values):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (256, 64)).save(wide)
    strip, cost, _ = page.describe([*files, str(wide)], values(page, rate=2, loop=True))
    assert strip.count("<img ") == 3
    assert "wide.png 256x64: cropped to 64x64, 75% of its width cut" in strip
    assert "42 frames of 64x64, 3.0 s of video" in cost
