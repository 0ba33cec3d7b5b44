"""The notebook runs as it stands, on every backend, and what is stored in it is what running it gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from notebooks import ROOT, code_cells, run_notebook, store_outputs, varies
from test_readme import ON_STRICT

NOTEBOOK = ROOT / "examples" / "backpropagation.ipynb"
ANEW = "python tests/notebooks.py examples/backpropagation.ipynb stores the outputs anew"


def text_of(outputs: list[dict[str, Any]]) -> str:
    """All that a cell shows."""
    return "".join("".join(each["text"] if "text" in each else each["data"]["text/plain"]) for each in outputs)


def stored() -> str:
    return "".join(text_of(cell["outputs"]) for cell in code_cells(NOTEBOOK))


@pytest.mark.parametrize("before", ["", ON_STRICT], ids=["numpy", "strict"])
def test_what_is_stored_is_what_running_gives(before: str, tmp_path: Path) -> None:
    cells = code_cells(NOTEBOOK)
    results = run_notebook(NOTEBOOK, tmp_path, before)
    assert len(cells) == len(results) > 20
    for cell, outputs in zip(cells, results, strict=True):
        if varies(cell):
            shape = r"long [\d.]+ µs, short [\d.]+ µs: [\d.]+ times\n"
            assert re.fullmatch(shape, text_of(outputs))
            assert re.fullmatch(shape, text_of(cell["outputs"]))
        else:
            assert text_of(outputs) == text_of(cell["outputs"]), ANEW
            assert [each["output_type"] for each in outputs] == [each["output_type"] for each in cell["outputs"]]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("xw", "-3 2 6"),
        ("dx", "-3 -1 2"),
        ("dw", "1 -2 3"),
        ("w", "-3.001 -0.998 1.997"),
        ("y", "5.985"),
        ("dx", "0.44 -0.38 -0.07 1.37"),
        ("dx", "0.44 -0.38 -0.07 1.37 0.88 -0.76 -0.14 2.74 1.32 -1.14 -0.21 4.11"),
        ("dW", "0.5 0.5 0.5 20.1 20.1 20.1 10.9 10.9 10.9 4.1 4.1 4.1"),
        ("db", "6 6 6"),
        ("dz", "1 2 0 0 5 0 0 8 0 10 11 0"),
        ("y", "4.8 1.21 2.385 8.9 0 0.2 1.41 1.051 0.026"),
        ("b", "1.98489 2.997739 0.497389"),
        ("dz", "-0.1 0.033333 0.066667 0.033333 -0.166667 0.133333 0.006667 -0.033333 0.026667"),
    ],
)
def test_a_reader_sees_the_chapters_numbers(name: str, numbers: str) -> None:
    shown = re.findall(rf"^{name} +(\[.*(?:\n {{9}}.*)*)", stored(), flags=re.MULTILINE)
    found = [[float(each) for each in re.findall(r"-?\d+\.?\d*", array)] for array in shown]
    assert [float(each) for each in numbers.split()] in found


def test_the_notebook_is_clean_and_small() -> None:
    text = NOTEBOOK.read_text("utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert text.endswith("}\n")
    assert len(text) < 100_000
    assert not re.search(r"/(home|tmp|root|work|Users|usr|opt)/|\.py\b|[A-Z]:\\\\", text)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert [cell["execution_count"] for cell in code_cells(NOTEBOOK)] == [*range(1, len(code_cells(NOTEBOOK)) + 1)]
    for cell in notebook["cells"]:
        assert "".join(cell["source"]).strip()
        assert set(cell["metadata"]) <= {"tags"}


def test_links_and_pictures_of_the_notebook_exist() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    assert "../docs/network.svg" in targets
    assert all((NOTEBOOK.parent / target).exists() for target in targets)


def test_outputs_are_stored_as_jupyter_would(tmp_path: Path) -> None:
    def cell(source: str, *tags: str) -> dict[str, Any]:
        metadata = {"tags": list(tags)} if tags else {}
        return {"cell_type": "code", "metadata": metadata, "source": [source], "outputs": [], "execution_count": None}

    path = tmp_path / "small.ipynb"
    cells = [cell("x = 6\nprint('said')\nx + 1"), cell("x"), cell("None"), cell("x = 1"), cell("print(x)", "varies")]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    store_outputs(path)
    first, second, third, fourth, fifth = code_cells(path)
    value = {"data": {"text/plain": ["7"]}, "execution_count": 1, "metadata": {}, "output_type": "execute_result"}
    assert first["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["said\n"]}, value]
    assert text_of(second["outputs"]) == "6"
    assert third["outputs"] == fourth["outputs"] == []
    assert text_of(fifth["outputs"]) == "1\n"
    broken = path.read_text().replace("print(x)", "print(y)")
    path.write_text(broken)
    with pytest.raises(AssertionError, match=r"(?s)small.ipynb does not run.*name 'y' is not defined"):
        store_outputs(path)
    assert path.read_text() == broken
