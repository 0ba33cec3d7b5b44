"""Runs the code of a page: its Python blocks in one namespace, its `bpnet` commands, in the order of the page.

A block of `text` right behind one of `python` or `sh` is what that block prints. `python tests/pages.py docs/errors.md`
writes the outputs of today into the page; the tests compare.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
MARK = "\x1e"  # stands between the outputs of two blocks

DRIVER = f"""
import json, os, shlex, subprocess, sys
namespace = {{"__name__": "__main__"}}
for language, code, place in json.load(sys.stdin):
    if language == "python":
        exec(compile(code, place, "exec"), namespace)
    elif language == "sh":
        for line in code.splitlines():
            sys.stdout.flush()
            subprocess.run([sys.executable, "-m", *shlex.split(line, comments=True)], check=True)
    else:
        with open(place, "w", encoding="utf-8") as file:
            file.write(code)
    print({MARK!r}, end="", flush=True)
"""


@dataclass
class Block:
    """A piece of a page that does something, and what the page says that it prints (None: nothing is said)."""

    language: str
    code: str
    place: str
    expected: str | None = None
    span: tuple[int, int] = (0, 0)  # of the expected output in the page


def blocks_of(page: Path) -> list[Block]:
    """The blocks of `page` that are run, in order. Of shell lines, those that call `bpnet` itself."""
    text = page.read_text("utf-8")
    found: list[Block] = []
    end = -1
    for match in FENCE.finditer(text):
        language, code = match["language"], match["code"]
        place = f"{page.name}, line {text.count(chr(10), 0, match.start('code')) + 1}"
        if language == "text" and found and not text[end : match.start()].strip() and found[-1].expected is None:
            found[-1].expected, found[-1].span = code, match.span("code")
        elif match["file"]:
            found.append(Block(language, code, match["file"]))
        elif language == "python":
            found.append(Block(language, code, place))
        elif language == "sh":
            lines = [line for line in code.splitlines() if line.startswith("bpnet ")]
            found.append(Block(language, "\n".join(lines), place))
        end = match.end()
    return found


def run_page(page: Path, folder: Path, before: str = "") -> list[tuple[Block, str]]:
    """Run the page's blocks as one program in the empty `folder`; return each with what it printed.

    before : Python that comes first. A warning is an error, and so is a command that fails.
    """
    blocks = blocks_of(page)
    program = [("python", before, "before"), *((block.language, block.code, block.place) for block in blocks)]
    path = os.pathsep.join(str(ROOT / part) for part in (".", "backends", "tests"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER],
        input=json.dumps(program),
        cwd=folder,
        env=os.environ | {"BPNET_BACKEND": "numpy", "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{page.name} does not run:\n{done.stderr}")
    return list(zip(blocks, done.stdout.split(MARK)[1:-1], strict=True))


def write_outputs(page: Path) -> None:
    """Put what the blocks print today in the place of what the page says."""
    with tempfile.TemporaryDirectory() as folder:
        results = run_page(page, Path(folder))
    text = page.read_text("utf-8")
    for block, printed in reversed(results):
        if block.expected is not None:
            text = text[: block.span[0]] + printed + text[block.span[1] :]
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_outputs(Path(name))
