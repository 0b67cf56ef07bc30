"""Models by their names on the Hugging Face hub: its own client against a small server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import svd_folders
from svd_folders import refused, weights_file

from convert.svd_to_flax import main as convert
from svdjax import hub
from svdjax.errors import InputError
from svdjax.loading import checkpoint_folder, find_model, locate

pytest.importorskip("huggingface_hub")

COMMIT = "a" * 40
NAME = "owner/svd"


@dataclass
class Hub:
    """A server with one model.

    Attributes:
        files: the model's folder.
        gated: whether files are refused to users without a token.
        served: names of the files that were downloaded.
    """

    files: Path
    gated: bool = False
    served: list[str] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        names = {file.relative_to(self.files).as_posix(): file for file in self.files.rglob("*") if file.is_file()}
        if path == f"/api/models/{NAME}" or path.startswith(f"/api/models/{NAME}/revision/"):
            return 200, {}, json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode()
        if path.startswith(f"/api/models/{NAME}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": f"{i:040}"}
                for i, (name, file) in enumerate(names.items())
            ]
            return 200, {}, json.dumps(entries).encode()
        name = path.removeprefix(f"/{NAME}/resolve/").partition("/")[2]
        if name not in names:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.gated and "authorization" not in headers:
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        data = names[name].read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}, data


@pytest.fixture
def server(source, tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub with `source`, float32 and fp16, and a single file; the client's cache is empty."""
    files = Path(shutil.copytree(source, tmp_path / "files"))
    for component in svd_folders.COMPONENTS:
        shutil.copy(weights_file(files, component), weights_file(files, component, ".fp16"))
    (files / "svd_xt.safetensors").write_bytes(b"all networks")
    (files / "README.md").write_text("text")
    model = Hub(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0]
            status, headers, data = model.answer(path, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)
                if "/resolve/" in path and status == 200:
                    model.served.append(path.partition(f"{COMMIT}/")[2])

        do_HEAD = do_GET

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    constants = "huggingface_hub.constants"
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(tmp_path / "no token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield model
    running.shutdown()
    running.server_close()


WEIGHTS = {"unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model"}


def weights_of(served: list[str]) -> set[str]:
    return {name for name in served if name.endswith(".safetensors")}


def test_only_needed_files_are_downloaded(server, monkeypatch):
    found = find_model(NAME)
    assert found.name == NAME
    assert found.notes == (f"{NAME}: the model of the Hugging Face hub, in {found.folder}",)
    assert weights_of(server.served) == {f"{name}.safetensors" for name in WEIGHTS}
    assert "README.md" not in server.served
    assert weights_file(found.folder, "unet").read_bytes() == weights_file(server.files, "unet").read_bytes()
    server.served.clear()
    assert find_model(NAME).folder == found.folder
    assert not server.served
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_model(NAME).folder == found.folder
    cache = found.folder.parents[1]
    assert cache.name == "models--owner--svd"
    for folder in (cache, cache / "snapshots", found.folder):  # folders of the cache, given as paths
        assert locate(folder) == found.folder


def test_a_variant(server):
    find_model(f"{NAME}:fp16")
    assert weights_of(server.served) == {f"{name}.fp16.safetensors" for name in WEIGHTS}
    server.served.clear()
    find_model(NAME)  # what is in the cache is used
    assert not server.served
    with pytest.raises(InputError, match=r"owner/svd:int8: the variant is int8, expected one of fp16, bf16$"):
        find_model(f"{NAME}:int8")
    with pytest.raises(InputError, match=r"^owner/svd: has none of that variant among its files of the unet"):
        find_model(f"{NAME}:bf16")


def test_several_files(server):
    file = weights_file(server.files, "unet")
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    file.rename(file.with_name(shard))
    file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    find_model(NAME)
    assert f"unet/{shard}" in server.served
    assert "unet/diffusion_pytorch_model.fp16.safetensors" not in server.served


def test_convert(server, capsys, save_as_npz, quick_shapes):
    assert convert([NAME, "out"]) == 0
    svd_folders.assert_holds(Path("out"), server.files)


def test_refused(server, capsys, monkeypatch):
    advice = f"accept its terms on http://127.0.0.1:.*/{NAME}, then log in with `hf auth login` or set HF_TOKEN$"
    server.gated = True
    with pytest.raises(InputError, match=f"^{NAME}: is a gated model of the Hugging Face hub: {advice}"):
        find_model(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert find_model(NAME).name == NAME
    capsys.readouterr()  # progress of the download
    message = "owner/other: no such folder, and no such model on the Hugging Face hub"
    assert refused(capsys, "owner/other", "out", command=convert).startswith(message)
    with pytest.raises(InputError, match=f"is a model of the Hugging Face hub, expected a checkpoint; run .* {NAME} OUT"):
        checkpoint_folder(NAME)
    shutil.rmtree(server.files / "unet")
    with pytest.raises(InputError, match=r"holds no unet/config.json, .*: download svd_xt.safetensors and give the file"):
        find_model(NAME)


def test_no_connection(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=rf"^{NAME}: can't be downloaded \(.+\), and is not in the Hugging Face hub's cache$"):
        find_model(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"can't be downloaded \(HF_HUB_OFFLINE is set\)"):
        find_model(NAME)


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'^a/b: no such folder; .* needs huggingface_hub: pip install -e "\.\[hub\]"$'):
        find_model("a/b")


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    for name in ("owner/svd", "svd", "./a/b", "/a/b", "a/b/c", "a/b.safetensors", "a/..", "-a/b", ""):
        assert not hub.is_name(Path(name)) or name == "./a/b", name
    for name in ("stabilityai/stable-video-diffusion-img2vid-xt", "a/b:fp16"):
        assert hub.is_name(Path(name)), name
