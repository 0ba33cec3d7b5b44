"""Runs a notebook without Jupyter: its code cells in one namespace, in order, and what each shows.

`python tests/notebooks.py examples/backpropagation.ipynb` stores today's outputs in the notebook; the tests compare. A
cell with the tag "varies" (it measures time) keeps what is stored, unless nothing is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK, VALUE = "\x1e", "\x1f"  # stand behind each cell's outputs, and before the value of its last expression

# As Jupyter does it: what a cell prints, and then the value of its last expression where that is not None.
DRIVER = f"""
import ast, json, sys
namespace = {{"__name__": "__main__"}}
for number, source in enumerate(json.load(sys.stdin)):
    tree = ast.parse(source, f"cell {{number}}")
    last = tree.body.pop() if number and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {{number}}", "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"cell {{number}}", "eval"), namespace)
        print(end={VALUE!r})
        if value is not None:
            print(repr(value), end="")
    print(end={MARK!r})
"""


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook, in order."""
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def run_notebook(path: Path, folder: Path, before: str = "") -> list[list[dict[str, Any]]]:
    """Run the code cells as one program in `folder`; return the outputs of each, as a notebook stores them.

    before : Python that comes first. A warning is an error.
    """
    program = [before, *("".join(cell["source"]) for cell in code_cells(path))]
    search = os.pathsep.join(str(ROOT / part) for part in (".", "backends", "tests"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER],
        input=json.dumps(program),
        cwd=folder,
        env=os.environ | {"BPNET_BACKEND": "numpy", "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{path.name} does not run:\n{done.stderr}")
    shown = done.stdout.split(MARK)[1:-1]
    return [_outputs(*each.partition(VALUE)[::2], count) for count, each in enumerate(shown, start=1)]


def _outputs(printed: str, value: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    if value:
        data = {"text/plain": value.splitlines(keepends=True)}
        found.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return found


def varies(cell: dict[str, Any]) -> bool:
    """Whether a cell shows something else in every run."""
    return "varies" in cell["metadata"].get("tags", [])


def store_outputs(path: Path) -> None:
    """Run the notebook and write the outputs into it."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_notebook(path, Path(folder))
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, (cell, shown) in enumerate(zip(cells, outputs, strict=True), start=1):
        cell["execution_count"] = count
        if not (varies(cell) and cell["outputs"]):
            cell["outputs"] = shown
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store_outputs(Path(name))
