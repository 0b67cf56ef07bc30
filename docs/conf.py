"""Sphinx configuration of the documentation.

    pip install -e ".[docs]"
    sphinx-build -W --keep-going docs docs/_build

Sphinx with MyST: the pages are Markdown that also reads well in a repository browser, autodoc renders the docstrings, and the
build needs no network.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import svdjax

project = "svdjax"
author = "the svdjax authors"
copyright = author
release = version = svdjax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = "svdjax"

# Markdown: $...$ for inline math, math fences, anchors of headings, and mermaid fences, which repository browsers draw too.
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 3
myst_fence_as_directive = ["math", "mermaid"]
nb_execution_mode = "off"  # notebooks are stored with their outputs

# Docstrings are Google style. Single backticks are references where the name is documented here, and code otherwise.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False  # a colon in a sentence of Returns is no type
napoleon_attr_annotations = False  # the signature has the types
napoleon_custom_sections = [("Args of the constructor", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "class"
python_maximum_signature_line_length = 88


def signature(
    app: Any, what: str, name: str, obj: Any, options: Any, text: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The constructor's signature for Flax modules, hidden by their metaclass; no `<factory>`, which Sphinx can't parse."""
    if what == "class" and issubclass(obj, nnx.Module):
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        text = str(inspect.Signature(parameters)).replace("'", "")
    return (text and text.replace("<factory>", "..."), returns)


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", signature)
