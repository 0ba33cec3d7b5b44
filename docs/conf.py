"""The documentation site. `python -m sphinx -W --keep-going -n docs docs/_build/html` builds it, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
for folder in (DOCS / "_extensions", ROOT / "backends", ROOT):
    sys.path.insert(0, str(folder))

import bpnet  # noqa: E402

project = "bpnet"
author = "The bpnet developers"
copyright = author
version = release = bpnet.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "plain_docstrings",
    "public_names",
    "mirrored_pages",
    "mathml",
    "explained_neuron",
]
exclude_patterns = ["_build", "_extensions"]

# The headings of a page are link targets (`page.md#a-heading`), and $...$ is mathematics.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]

nitpicky = True
autodoc_typehints = "signature"
autodoc_type_aliases = {"Array": "Array", "Initializer": "Initializer"}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
smartquotes = False
add_module_names = False
toc_object_entries_show_parents = "hide"

pygments_style = "friendly"
pygments_dark_style = "native"

html_theme = "furo"
html_title = f"bpnet {release}"
html_static_path = ["_static"]
html_css_files = ["bpnet.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
