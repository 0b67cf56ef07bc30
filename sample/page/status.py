"""The status of a job as HTML: what is being done, the time left, the preview, or one line that says what went wrong."""

from __future__ import annotations

import html
import time

from sample import console
from sample.page import jobs, preview
from sample.page.jobs import Job, Jobs

_TALLEST = 420  # of the preview, pixels
_MOST_FRAMES = 100  # of the preview; of a longer video, every second or third is shown, ...
_WEBP_SIDE = 16383  # largest side of a WebP image, pixels
EMPTY = '<div class="status empty">The video appears here.</div>'


def error(line: str) -> str:
    """The line of an error."""
    return f'<div class="status error" role="alert">{html.escape(line)}</div>'


def of_job(job: Job, queue: Jobs) -> str:
    """The status of a job."""
    if job.state == jobs.FAILED:
        return error(job.error)
    if job.state == jobs.CANCELLED:
        return '<div class="status empty">Cancelled. No video was made.</div>'
    if job.state == jobs.DONE:
        warnings = "".join(f'<p class="cost">{html.escape(line)}</p>' for line in job.warnings)
        return f'<p class="cost">Made in {console.duration(job.seconds)}{_scaled(job.request.scale)}.</p>{warnings}'
    share = job.done / job.total if job.total else 0.0
    line = html.escape("Cancelling after the running step" if job.cancelling else _line(job, queue))
    bar = f'<div class="bar" role="progressbar" aria-valuenow="{100 * share:.0f}"><div style="width:{share:.1%}"></div></div>'
    return f'<div class="status">{_preview(job)}{bar}<p>{line}</p></div>'


def _scaled(scale: int) -> str:
    return f", shown {scale} times larger" if scale > 1 else ""


def _line(job: Job, queue: Jobs) -> str:
    if job.state == jobs.WAITING:
        before, running = queue.before(job), queue.running()
        left = None if running is None or before != 1 else running.seconds_left()
        videos = "1 video is" if before == 1 else f"{before} videos are"
        return f"Waiting: {videos} made first" + (f", {console.duration(left)} left" if left is not None else "")
    if job.state == jobs.LOADING:
        return "Loading the model"
    if job.state == jobs.WRITING:
        return "Decoding and writing the video"
    if job.done == 0:
        return "Preparing: the first video of a size is compiled, which takes longer"
    left = job.seconds_left()
    return f"Evaluation {job.done} of {job.total}" + (f", {console.duration(left)} left" if left is not None else "")


def _preview(job: Job) -> str:
    """The preview: frames one below the other in one picture, moved by an animation."""
    frames = job.frames
    if frames is None:
        return ""
    seconds = float(len(frames) * job.request.factor / job.request.rate)
    most = max(1, min(_MOST_FRAMES, _WEBP_SIDE // frames.shape[1]))
    frames = frames[:: -(-len(frames) // most)]
    count, height, width, channels = frames.shape
    at = (time.monotonic() - job.started) % seconds  # goes on where the last preview was
    source = preview.data_uri(frames.reshape(count * height, width, channels))
    style = f"width:min(100%,{_TALLEST * width // height}px);aspect-ratio:{width}/{height};background-size:100% {count}00%"
    style += f";background-image:url({source});animation:play {seconds:.3f}s steps({count},jump-none) -{at:.3f}s infinite"
    return f'<div class="preview" role="img" aria-label="preview" style="{style}"></div>'
