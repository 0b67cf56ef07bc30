"""The page: its inputs and outputs, connected to `handlers`."""

from __future__ import annotations

import importlib.resources
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]: of the extra `app`
from gradio.themes import Default  # pyright: ignore[reportMissingImports]

from sample.page import controls, examples, status
from sample.page.controls import NAMES
from sample.page.handlers import SHEET, VIDEO, Page
from sample.page.jobs import DONE

FILE_TYPES = ["image", ".heic", ".heif", ".avif", ".jp2", ".tif", ".tiff", ".ppm"]
MOST_BYTES = 100 * 2**20  # of an uploaded file
KEPT_SECONDS = 24 * 3600  # of uploaded files, unless the page ends before
FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from a network


def style() -> str:
    """The page's own CSS."""
    return importlib.resources.files("sample.page").joinpath("page.css").read_text(encoding="utf-8")


def theme() -> Any:
    """Gradio's plain theme with the system's fonts."""
    return Default(primary_hue="indigo", neutral_hue="slate", **FONTS)


def build(page: Page) -> Any:
    """The page as Gradio blocks."""
    config = page.request.source.config
    with gr.Blocks(title="svdjax", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as blocks:
        width, height = config.default_size
        gr.HTML(
            '<div class="head"><h1>svdjax</h1><p>Two or more keyframes in, the video between them out. '
            f"Model: {page.request.source.name}, {config.unet.num_frames} frames of {width}x{height}.</p></div>"
        )
        with gr.Row():
            with gr.Column(scale=6, min_width=280):
                files = gr.File(
                    file_count="multiple",
                    file_types=FILE_TYPES,
                    allow_reordering=True,
                    label="Keyframes in time order, two or more",
                    height=140,
                    elem_id="files",
                )
                strip = gr.HTML()
                gallery = _examples(page) if page.request.embedded else None
                inputs = _inputs(page)
            with gr.Column(scale=5, min_width=280):
                cost = gr.HTML()
                with gr.Row():
                    make = gr.Button("Make the video", variant="primary", elem_id="make")
                    stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="stop")
                shown = gr.HTML(status.EMPTY, elem_id="status")
                video = gr.Video(visible=False, autoplay=True, loop=True, show_label=False, elem_id="video", buttons=[])
                sheet = gr.Image(
                    visible=False, show_label=False, type="filepath", format="png", buttons=["fullscreen"], elem_id="sheet"
                )
                with gr.Row():
                    downloads = [gr.DownloadButton(label, visible=False) for label in ("Download video", "Download sheet")]
                command = gr.Textbox(
                    label="The same as a command", lines=2, buttons=["copy"], interactive=False, elem_id="command"
                )
        values = [inputs[name] for name in NAMES]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

        def describe(files: list[str] | None, *values: Any) -> tuple[str, str, str]:
            return page.describe(files or [], values)

        results = (video, sheet, *downloads)

        async def run(files: list[str] | None, request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
            yield {**{result: gr.update(visible=False, value=None) for result in results}, **_running(True)}
            async for html, job in page.run(files or [], values, str(request.session_hash)):
                made = {}
                if job is not None and job.state == DONE:
                    paths = [str(job.folder / name) for name in (VIDEO, SHEET)]
                    made = {
                        result: gr.update(visible=True, value=path) for result, path in zip(results, paths * 2, strict=True)
                    }
                yield {shown: html, **made}
            yield _running(False)

        def _running(now: bool) -> dict[Any, Any]:
            return {make: gr.update(interactive=not now), stop: gr.update(visible=now)}

        def cancel(request: gr.Request) -> None:
            page.cancel(str(request.session_hash))

        gr.on(
            [blocks.load, *(component.change for component in (files, *values))],
            describe,
            [files, *values],
            [strip, cost, command],
            trigger_mode="always_last",
            **quiet,
        )
        made = make.click(run, [files, *values], [shown, *results, make, stop], concurrency_limit=None, **quiet)
        made.then(describe, [files, *values], [strip, cost, command], **quiet)  # the time of a step is known now
        stop.click(cancel, queue=False, **quiet)
        blocks.unload(cancel)
        if gallery is not None:
            gallery[0].select(gallery[1], None, files, **quiet)
    return blocks


def _inputs(page: Page) -> dict[str, Any]:
    """The controls by name."""
    start = controls.start(page.request)
    made: dict[str, Any] = {}
    with gr.Row():
        made["quality"] = gr.Radio(controls.QUALITIES, value=start["quality"], label="Quality", scale=2, min_width=260)
        made["size"] = gr.Dropdown(
            controls.size_choices(page.request), value="", allow_custom_value=True, label="Size", min_width=140
        )
    with gr.Row():
        made["motion"] = gr.Slider(0, 255, start["motion"], step=1, label="Amount of motion", scale=2, min_width=260)
        made["seed"] = gr.Number(start["seed"], precision=0, label="Seed", min_width=140)
    with gr.Row():
        made["num_frames"] = gr.Number(start["num_frames"], precision=0, label="Frames per clip", min_width=200)
        made["fps"] = gr.Number(start["fps"], precision=0, label="Frames per second", min_width=140)
    with gr.Accordion("More settings", open=False):
        made["method"] = gr.Dropdown(controls.method_choices(page.request), value="", label="Method")
        with gr.Row():
            made["fit"] = gr.Radio(controls.FITS, value=start["fit"], label="Keyframes of another shape")
            made["rate"] = gr.Radio(controls.RATES, value=start["rate"], label="Frame rate")
        with gr.Row():
            made["keep_keyframes"] = gr.Checkbox(start["keep_keyframes"], label="Show the keyframes exactly")
            made["loop"] = gr.Checkbox(start["loop"], label="Loop: lead back to the first keyframe")
        with gr.Row():
            made["fusion"] = gr.Dropdown(controls.FUSIONS, value="", label="Fusion of the directions")
            made["schedule"] = gr.Dropdown(controls.SCHEDULES, value="", label="Noise levels")
        with gr.Row():
            made["steps"] = gr.Textbox("", label="Steps", placeholder="by quality", min_width=110)
            made["recurrence"] = gr.Textbox("", label="Repetitions of early steps", placeholder="by quality", min_width=110)
            made["playback_fps"] = gr.Textbox("", label="Playback frames per second", placeholder="as above", min_width=110)
    return made


def _examples(page: Page) -> tuple[Any, Any]:
    """A gallery of examples, and the function that returns the keyframes of the selected one."""
    folder = page.folder / "examples"
    folder.mkdir()
    found = examples.write(folder)
    gr.HTML('<p class="note">Or try an example:</p>')
    gallery = gr.Gallery(
        [(picture, name) for name, (_, picture) in found.items()],
        show_label=False,
        columns=3,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="examples",
    )
    pairs = [files for files, _ in found.values()]

    def choose(event: gr.SelectData) -> list[str]:
        return pairs[event.index]

    return gallery, choose
