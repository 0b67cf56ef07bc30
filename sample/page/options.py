"""Command-line options of `sample.app`, checked before the page starts."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sample import sampling_options
from svdjax.errors import InputError
from svdjax.loading import find_model, is_embedded
from svdjax.model_sources import ModelSource, trained_kinds_of
from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import DTYPES

LOCAL = "127.0.0.1"
PORT = 7860  # Gradio's own default
MODEL_OPTIONS = ("model", "backward", "dtype", "memory")  # passed on to `sample.interpolate`


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """The checked command line.

    Attributes:
        model: value of `--model`; None is the embedded model.
        source: the model.
        words: its options as words of a `sample.interpolate` command line.
        memory: GiB of the device that a run may use; None for what it has.
        host, port: the address of the page.
        open: whether to open it in the browser.
    """

    model: str | None
    source: ModelSource
    backward: Path | None
    words: tuple[str, ...]
    memory: float | None
    host: str
    port: int
    open: bool

    @property
    def embedded(self) -> bool:
        """Whether the model is the embedded one."""
        return self.model is None or is_embedded(self.model)

    def source_for(self, method: str) -> ModelSource:
        """The model for a method: the embedded model has backward weights for each."""
        return find_model(None, method) if self.embedded else self.source

    def trained_kinds(self, method: str) -> Sequence[str] | None:
        """Kinds of backward tensors for a method (`svdjax.models.backward`); None without backward weights."""
        kinds = trained_kinds_of(self.backward) if self.backward else self.source_for(method).trained_kinds()
        return None if kinds is None else list(kinds)


def parser() -> cli.Parser:
    """The command's options."""
    p = cli.Parser(prog="python -m sample.app", description="A page in the browser: drop keyframes, get the video between.")
    sampling_options.add_model(p)
    p.add_argument("--backward", type=paths.path, metavar="DIR", help="backward weights to use instead of the model's own")
    p.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: bfloat16; float32 on a CPU)")
    memory_option.add_memory(p)
    p.add_argument(
        "--host",
        default=LOCAL,
        help="address to listen on; 0.0.0.0 lets everyone who reaches this computer use the page (default: %(default)s, "
        "this computer only)",
    )
    p.add_argument("--port", type=int, default=PORT, metavar="N", help="port to listen on (default: %(default)s)")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    return p


def parse(argv: list[str] | None) -> PageRequest:
    """Parse and check the command line and read the model's configuration, before the page starts.

    Raises:
        InputError: Gradio is missing, no such model, backward weights that can't be used, or an address in use.
    """
    args = parser().parse_args(argv)
    memory_option.take_share(args.memory)
    source, note = sampling_options.find(args.model)
    request = PageRequest(
        model=args.model,
        source=source,
        backward=args.backward,
        words=tuple(f"--{name}={value}" for name in MODEL_OPTIONS if (value := getattr(args, name)) is not None),
        memory=args.memory,
        host=args.host,
        port=args.port,
        open=args.open,
    )
    request.trained_kinds("dual")  # reads what `--backward` names
    memory_option.start(args.memory)
    check_address(args.host, args.port)
    if importlib.util.find_spec("gradio") is None:
        raise InputError('gradio is not installed, but the page needs it: pip install -e ".[app]"')
    for line in filter(None, [note, source.transfer_note(args.backward)]):
        print(line)
    return request


def check_address(host: str, port: int) -> None:
    """Raise `InputError` unless a server can listen at an address."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port}, expected a number from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise InputError(f"--host {host!r}: not an address of this computer, expected one such as {LOCAL}") from None
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as e:
            what = "--port" if e.errno in (13, 98, 48) else "--host"
            raise InputError(f"{what}: {host}:{port} can't be used ({(e.strerror or str(e)).lower()}); try another") from None


def command_text(words: Sequence[str], keyframes: Sequence[str]) -> str:
    """A `sample.interpolate` command line to copy, with the names of the keyframes' files."""
    names = [f"./{name}" if name.startswith("-") else name for name in keyframes]
    return shlex.join(["python", "-m", "sample.interpolate", *names, *words])
