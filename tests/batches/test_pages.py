"""Commands on the pages about first hours, batches and scale have options that exist."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from svdjax.runtime import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (*sorted((DOCS / "first-hour").glob("*.md")), DOCS / "guides" / "batches.md", DOCS / "guides" / "scale.md")
# Commands as blocks or inside sentences, without those that only name the command.
COMMANDS = [
    (page.name, line.removesuffix("&").strip())
    for page in PAGES
    for line in re.findall(r"python -m ((?:sample|train|convert)\.\w+ [^`\n]*)", page.read_text())
    if " " in line.strip()
]


class Parsed(Exception):
    pass


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_options_exist(page, line, monkeypatch):
    module, *words = shlex.split(line.replace(" ...", ""))
    parse = cli.Parser.parse_args

    def parsed(parser, argv=None, namespace=None):
        parse(parser, argv, namespace)
        raise Parsed

    monkeypatch.setattr(cli.Parser, "parse_args", parsed)
    with pytest.raises(Parsed):
        import_module(module).command(words)


def test_commands_are_found():
    assert len(COMMANDS) >= 20
    assert {page for page, _ in COMMANDS} == {page.name for page in PAGES}
