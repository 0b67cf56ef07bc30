"""`python -m sample.app`: a page in the browser to drop keyframes on and get the video between them."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

from sample.page import options, server
from svdjax.runtime import cli


def command(argv: list[str] | None) -> None:
    server.serve(options.parse(argv))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
