"""The layout of the code: what a folder may import, no import circle, small folders and files.

Imports are read from the source, wherever they are: at the top, inside functions, under `TYPE_CHECKING`, relative ones, and
modules that are named in strings and imported when the program runs (`import_module`, tables of module names).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("svdjax", "convert", "train", "sample")
MOST_FILES = 16  # Python files in one folder
MOST_LINES = 250

# The other packages that the modules of a package may import.
PACKAGE_MAY_IMPORT = {
    "svdjax": (),
    "convert": ("svdjax",),
    "train": ("svdjax",),
    "sample": ("svdjax",),
}
TRAINING_BENCHMARK = "sample.benchmarking.train_"  # these modules time steps of `train`; no other of `sample` imports it

# The other folders of `svdjax` that the modules of a folder may import. The modules beside the folders: those in `BASIC` import
# no folder and may be imported by all; the others (pipeline, loading, embedded_model) may import all folders.
FOLDER_MAY_IMPORT = {
    "devices": (),
    "runtime": ("devices",),
    "memory": ("devices",),
    "kernels": ("devices", "memory"),
    "world": (),
    "media": ("runtime",),
    "data": ("runtime", "media", "world"),
    "models": ("devices", "memory", "kernels"),
    "decoding": ("devices", "memory", "models"),
    "sampling": ("devices", "memory", "models", "decoding", "parallel"),
    "frame_rate": ("devices", "memory", "models", "sampling", "parallel"),
    "losses": ("memory", "models", "sampling"),
    "parallel": ("devices", "runtime", "memory"),
    "checkpoints": ("devices", "runtime", "memory", "models"),
    "diffusers_layout": ("devices", "runtime", "models", "checkpoints"),
    "original_layout": ("runtime", "models", "checkpoints", "diffusers_layout"),
}
BASIC = ("config", "config_checks", "errors", "scalars", "version", "presets")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages below `root`, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of `known` that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner
                elif base in known:
                    yield base
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A module name in a table (one like `train.backward` is the name of a command in a message), or an import statement
            # in the text of a program.
            named = [] if node.value.count(".") == 1 and not node.value.startswith("svdjax.") else [node.value]
            programs = re.findall(r"\bfrom ([a-z_.]+) import |(?:^|[;\n]) *import ([a-z_.]+)", node.value)
            named += [module for found in programs for module in found if module]
            yield from (text for text in named if "." in text and text in known)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and arg.value in known)


def graph(root: Path) -> dict[str, set[str]]:
    known = modules(root)
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The modules of one import circle in order, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if found := walk(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := walk(name, []))), [])


def forbidden(edges: Mapping[str, set[str]]) -> list[str]:
    """Imports that the two tables forbid, as text."""
    found = []
    for name, targets in edges.items():
        package, *inner = name.split(".")
        for target in sorted(targets):
            its_package, *its_inner = target.split(".")
            if package != its_package:
                allowed = PACKAGE_MAY_IMPORT[package] + (("train",) if name.startswith(TRAINING_BENCHMARK) else ())
                if its_package not in allowed:
                    found.append(f"{name} imports {target}")
            elif package == "svdjax" and inner:
                folder = inner[0] if len(inner) > 1 else None
                if folder is None and inner[0] in BASIC:
                    right = len(its_inner) == 1 and its_inner[0] in BASIC
                elif folder is None:
                    right = True
                else:
                    right = bool(its_inner) and its_inner[0] in (folder, *FOLDER_MAY_IMPORT[folder], *BASIC)
                if not right:
                    found.append(f"{name} imports {target}")
    return found


def crowded(root: Path, names: tuple[str, ...] = (*PACKAGES, "tests")) -> list[str]:
    """Folders with too many files, folders below the second level, and files with too many lines."""
    found = []
    for path in sorted(path for name in names for path in (root / name).rglob("*.py")):
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            found.append(f"{path.relative_to(root)} has {lines} lines, expected at most {MOST_LINES}")
        if len(path.relative_to(root).parts) > 3:
            found.append(f"{path.relative_to(root)} lies below the second level")
    for folder in sorted({path.parent for name in names for path in (root / name).rglob("*.py")}):
        count = len(list(folder.glob("*.py")))
        if count > MOST_FILES:
            found.append(f"{folder.relative_to(root)} has {count} files, expected at most {MOST_FILES}")
    return found


def test_no_import_circle():
    assert not circle(graph(ROOT))


def test_every_folder_imports_what_it_may():
    assert {path.name for path in (ROOT / "svdjax").iterdir() if list(path.glob("*.py"))} == set(FOLDER_MAY_IMPORT)
    assert not forbidden(graph(ROOT))


def test_small_folders_and_files():
    assert not crowded(ROOT)


def test_subpackages_are_empty():
    """Importing one loads nothing: workers that read data must not load JAX."""
    for path in ROOT.glob("*/*/__init__.py"):
        if path.parents[1].name in PACKAGES:
            assert not path.read_text().strip(), path


WRONG = {
    "a circle": {"svdjax/media/a.py": "from svdjax.media import b", "svdjax/media/b.py": "from svdjax.media.a import x"},
    "a circle of relative imports": {"svdjax/media/a.py": "from . import b", "svdjax/media/b.py": "from .a import x"},
    "a circle for types": {
        "svdjax/media/a.py": "from svdjax.media.b import x",
        "svdjax/media/b.py": "if TYPE_CHECKING:\n    from svdjax.media.a import X",
    },
    "a circle when it runs": {
        "svdjax/media/a.py": "TABLE = {'b': 'svdjax.media.b'}",
        "svdjax/media/b.py": "def f():\n    import svdjax.media.a",
    },
    "sample imports train": {"sample/a.py": "from train import b", "train/b.py": ""},
    "sample imports convert": {"sample/a.py": "def f():\n    import convert.b", "convert/b.py": ""},
    "train imports convert": {"train/a.py": "from convert.b import x", "convert/b.py": ""},
    "sample imports train when it runs": {"sample/a.py": "importlib.import_module('train.b')", "train/b.py": ""},
    "a program's text imports train": {"sample/a.py": "CODE = 'import sys; from train.b import x'", "train/b.py": ""},
    "svdjax imports a command": {"svdjax/a.py": "from sample import b", "sample/b.py": ""},
    "a folder below another": {"svdjax/runtime/a.py": "from svdjax.models import b", "svdjax/models/b.py": ""},
    "a long file": {"svdjax/media/a.py": "\n" * 251},
    "a crowded folder": {f"svdjax/media/a{i}.py": "" for i in range(17)},
    "a third level": {"svdjax/media/deep/a.py": ""},
}


@pytest.mark.parametrize("files", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    edges = graph(tmp_path)
    assert bool(circle(edges)) + bool(forbidden(edges)) + bool(crowded(tmp_path)) == 1
