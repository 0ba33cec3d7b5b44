"""Pages of the site that are files of the repository, read where they lie; and links from pages to such files.

In `docs/` each has a stub with a comment, so that Sphinx finds the page. A notebook is read as it is stored, with its
outputs; nothing is executed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
MIRRORED = {
    "changelog": "CHANGELOG.md",
    "contributing": ".github/CONTRIBUTING.md",
    "backends": "backends/README.md",
    "backpropagation": "examples/backpropagation.ipynb",
}
PAGE_OF = {path: name for name, path in MIRRORED.items()}


def notebook_as_markdown(text: str) -> str:
    """The cells of a notebook, with the outputs stored in it, as MyST."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [_output(each) for each in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return f"```text\n{''.join(text).rstrip()}\n```"


def rewritten(text: str, folder: Path, docname: str) -> str:
    """`text`, whose relative links start in `folder`, with links that fit the page `docname`."""
    depth = "../" * docname.count("/")

    def link(match: re.Match[str]) -> str:
        target, hash_mark, anchor = match[2].partition("#")
        if "://" in target or not target:
            return match[0]
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        inside = path.relative_to(ROOT).as_posix()
        if inside in PAGE_OF:
            return f"{match[1]}({depth}{PAGE_OF[inside]}.md{hash_mark}{anchor})"
        if inside == "README.md":
            return f"{match[1]}({depth}index.md)"
        if path.is_relative_to(ROOT / "docs"):
            return f"{match[1]}({depth}{path.relative_to(ROOT / 'docs').as_posix()}{hash_mark}{anchor})"
        return f"{match[1].removeprefix('[').removesuffix(']')} (`{inside}` in the repository)"

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", link, text)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace a stub by the file that it stands for, and make links between repository and site right."""
    path = ROOT / "docs" / f"{docname}.md"
    text = source[0]
    if docname in MIRRORED:
        path = ROOT / MIRRORED[docname]
        app.env.note_dependency(str(path))
        text = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            text = notebook_as_markdown(text)
    source[0] = rewritten(text, path.parent, docname)


def setup(app: Sphinx) -> dict[str, Any]:
    """Read pages through `read`."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
