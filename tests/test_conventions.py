"""Conventions of the code that a reader relies on."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("svdjax", "convert", "train", "sample")
MOST_POSITIONAL = 4  # fields of a dataclass that is built by position


def test_large_dataclasses_are_built_by_keyword():
    found = []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
                fields = sum(isinstance(item, ast.AnnAssign) for item in node.body)
                plain = [text for text in decorators if "dataclass" in text and "register" not in text]
                if fields > MOST_POSITIONAL and any("kw_only=True" not in text for text in plain):
                    found.append(f"{path.relative_to(ROOT)}: {node.name} has {fields} fields")
    assert not found
