"""Serve the page until Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from sample.page.options import LOCAL, PageRequest
from svdjax.errors import InputError, one_line
from svdjax.runtime import compilation_cache


def serve(request: PageRequest) -> None:
    """Start the page, print its address, and wait for Ctrl-C; then remove uploaded files and videos.

    Raises:
        InputError: the page can't be served.
    """
    compilation_cache.enable()
    with tempfile.TemporaryDirectory(prefix="svdjax-page-", ignore_cleanup_errors=True) as folder:
        # before Gradio is imported
        uploads = str(Path(folder, "uploads"))
        os.environ.update({"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads, "HF_HUB_DISABLE_TELEMETRY": "1"})
        from sample.page import layout
        from sample.page.handlers import Page
        from sample.page.jobs import Jobs

        jobs = Jobs(request.memory)
        blocks = layout.build(Page(request, jobs, Path(folder)))
        try:
            _launch(blocks, request)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nthe page is closed, its uploads and videos are removed")
        finally:
            jobs.close()
            blocks.close(verbose=False)


def _launch(blocks: Any, request: PageRequest) -> None:
    from sample.page import layout

    try:
        blocks.queue(default_concurrency_limit=4, api_open=False)
        _, url, _ = blocks.launch(
            server_name=request.host,
            server_port=request.port,
            share=False,
            inbrowser=request.open,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=layout.MOST_BYTES,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=layout.theme(),
            css=layout.style(),
        )
    except OSError as e:
        raise InputError(f"--port is {request.port}: the page can't be served: {one_line(e, 200)}") from None
    others = "" if request.host == LOCAL else "; everyone who reaches this computer can use it"
    print(f"the page is at {url}{others}\nCtrl-C ends it", flush=True)
