"""The page in a real browser, Chromium without a window: drop, run, play, cancel, a bad file, two tabs, the end.

Needs the extra `app`, selenium, and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from svdjax.media.video import read_metadata
from svdjax.world.drawing import render
from svdjax.world.scene import scene

pytest.importorskip("gradio", reason="the extra app is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
# Drop the files of an input element on the page's drop area.
DROP = """
const files = new DataTransfer();
for (const file of arguments[0].files) files.items.add(file);
const area = document.querySelector("#files button");
for (const type of ["dragenter", "dragover", "drop"])
  area.dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: files}));
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The page's address, and the folder for its temporary files; at the end it must be closed cleanly."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (folder / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "sample.app", "--port", str(port)],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}/"
    wait(lambda: address in (folder / "log").read_text() or process.poll() is not None, 120)
    yield address, folder
    process.send_signal(signal.SIGTERM)
    text = (folder / "log").read_text()
    assert process.wait(60) == 0, text
    assert "Traceback" not in text
    assert not list(folder.glob("svdjax-page-*"))


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
        assert urls
        assert not {url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))}
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def keyframes(tmp_path):
    from PIL import Image

    clip = render(scene("test", 3))
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, frame in zip(paths, (clip[0], clip[-1]), strict=True):
        Image.fromarray(frame).save(path)
    return paths


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


def find(browser, selector):
    return wait(lambda: browser.find_elements("css selector", selector))[0]


def status(browser):
    return find(browser, "#status").text


def drop(browser, paths):
    """Drop files on the page, as from a file manager."""
    find(browser, "#files button")
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<input type=file multiple id=given>')")
    given = find(browser, "#given")
    given.send_keys("\n".join(map(str, paths)))
    browser.execute_script(DROP, given)
    browser.execute_script("arguments[0].remove()", given)


def start(browser, address, paths):
    browser.get(address)
    drop(browser, paths)
    wait(lambda: len(browser.find_elements("css selector", ".strip img")) == len(paths))
    find(browser, "input[type=radio][value=draft]").click()
    wait(lambda: "10 evaluations of the model" in find(browser, ".cost").text)
    find(browser, "#make").click()


@pytest.mark.heavy
def test_drop_run_play_download(server, browser, keyframes, tmp_path):
    address, folder = server
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    start(browser, address, keyframes)
    find(browser, ".preview")
    wait(lambda: " left" in status(browser))
    wait(lambda: "Made in" in status(browser))
    wait(lambda: browser.execute_script("return document.querySelector('#video video')?.duration > 0"))
    state = "const v = document.querySelector('#video video'); return [v.duration, v.videoWidth, v.videoHeight]"
    assert browser.execute_script(state) == [pytest.approx(8 / 7, abs=0.01), 384, 384]
    now = "return document.querySelector('#video video').currentTime"
    first = browser.execute_script(now)
    wait(lambda: browser.execute_script(now) != first, 10)  # it plays
    assert browser.execute_script("return document.querySelector('#sheet img').naturalWidth") > 700
    command = find(browser, "#command textarea").get_attribute("value")
    assert command == "python -m sample.interpolate one.png two.png --steps=10 --recurrence=0"
    assert ", about" in find(browser, ".cost").text
    next(b for b in browser.find_elements("css selector", "button, a") if b.text == "Download video").click()
    saved = tmp_path / "inbetween.mp4"
    wait(saved.exists, 20)
    assert read_metadata(saved)["steps"] == "10"
    assert not list(folder.glob("svdjax-page-*/job-*"))


@pytest.mark.heavy
def test_cancel(server, browser, keyframes):
    start(browser, server[0], keyframes)
    wait(lambda: "Evaluation" in status(browser))
    find(browser, "#stop").click()
    wait(lambda: "Cancelled" in status(browser), 10)
    wait(lambda: find(browser, "#make").is_enabled())
    assert not browser.find_elements("css selector", "#video video")


@pytest.mark.heavy
def test_two_tabs(server, browser, keyframes):
    start(browser, server[0], keyframes)
    wait(lambda: "Evaluation" in status(browser))
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    start(browser, server[0], keyframes)
    wait(lambda: "Waiting: 1 video is made first" in status(browser))
    second = browser.current_window_handle
    browser.switch_to.window(first)
    browser.close()  # its job is cancelled
    browser.switch_to.window(second)
    wait(lambda: "Evaluation" in status(browser), 30)
    wait(lambda: "Made in" in status(browser))


def test_an_example_and_a_bad_file(server, browser, keyframes):
    """The short test: no video is made."""
    keyframes[1].write_text("no image")
    browser.get(server[0])
    find(browser, "#examples .thumbnail-item").click()
    wait(lambda: len(browser.find_elements("css selector", ".strip img")) == 2)
    browser.refresh()
    drop(browser, keyframes)
    line = "two.png: not an image of a supported format, expected PNG, JPEG"
    wait(lambda: line in find(browser, ".status.error").text)
    find(browser, "#make").click()
    wait(lambda: line in status(browser))
