"""bpnet's docstrings, which are plain prose, as reStructuredText.

A line `name, other : what it is` becomes an item of a list of definitions, and so does each part of
`x : (N, I); W : (I, O)`. A word in single backticks becomes a link where it is a public name, else a literal. Whatever
reStructuredText would read as markup is escaped. Examples (`>>>`) are left as they are.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from public_api import canonical

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TERM = r"[\"'.\w*-]+(?:, [\"'.\w*-]+)*"
ITEM = re.compile(rf"({TERM}) +: +(?=\S)")
NEXT_ITEM = re.compile(rf"[;,] ({TERM}) : (?=\S)")
WIDTH = 120 - 8 - 4  # of a line in the text of a method, with some room
SENTENCE = re.compile(r"(Raises?|Returns)\b")
NAME = re.compile(r"\b[A-Z]\w+\b")


def escaped(text: str) -> str:
    """`text` with nothing in it that reStructuredText would read as markup."""
    return re.sub(r"([\\*_|`])", r"\\\1", text)


def linked(name: str) -> str | None:
    """A reference to the public `name`, which may be written with `bpnet.` or `bp.` or with parentheses, else None."""
    bare = name.removesuffix("()").removeprefix("bpnet.").removeprefix("bp.")
    target = canonical(bare)
    return f":py:obj:`{name} <{target}>`" if target else None


def inline(text: str, *, names: bool = False) -> str:
    """`text` with its backticks turned into links and literals; with `names`, bare class names are links too."""
    parts = re.split(r"`([^`]+)`", text)
    made = []
    for index, part in enumerate(parts):
        if index % 2:
            made.append(linked(part) or f"``{part}``")
        elif names:
            made.append(NAME.sub(lambda match: linked(match[0]) or escaped(match[0]), part))
        else:
            made.append(escaped(part))
    text = made[0]
    for before, after in itertools.pairwise(made):
        tight = before[-1:].isalnum() or (after[:1].isalnum() or after[:1] in "(['\"")
        text += ("\\ " if tight and before and after else "") + after
    return text


def items(text: str) -> list[tuple[str, str]]:
    """The (term, definition) pairs of `x : ...; y : ...`, which starts with a term."""
    found = []
    match = ITEM.match(text)
    while match is not None:
        rest = text[match.end() :]
        following = NEXT_ITEM.search(rest)
        if following is None:
            found.append((match[1], rest))
            break
        found.append((match[1], rest[: following.start()]))
        text = rest[following.start() + 2 :]
        match = ITEM.match(text)
    return found


def unwrapped(lines: list[str]) -> list[str]:
    """`lines` without the breaks that come from the width of the file; a line that had room for more ends there."""
    found = lines[:1]
    for before, line in itertools.pairwise(lines):
        if len(before) + 1 + len(line.split()[0]) > WIDTH:
            found[-1] += f" {line}"
        else:
            found.append(line)
    return found


def definitions(pairs: list[tuple[str, str]]) -> list[str]:
    """The lines of a list of definitions."""
    lines = []
    for term, definition in pairs:
        lines += [", ".join(f"``{each}``" for each in term.split(", ")), f"    {inline(definition)}"]
    return [*lines, ""]


def joined(lines: list[str]) -> list[str]:
    """`lines` with terms that stand one below the other, each but the last with a comma behind it, in one line."""
    found: list[str] = []
    for line in lines:
        if found and re.fullmatch(f"{TERM},", found[-1]) and ITEM.match(line):
            line = f"{found.pop()} {line}"
        found.append(line)
    return found


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    lines = joined(lines)
    made: list[str] = []
    paragraph: list[str] = []
    pairs: list[tuple[str, str]] = []

    def flush() -> None:
        if paragraph:
            texts = [inline(text, names=bool(SENTENCE.match(text))) for text in unwrapped(paragraph)]
            made.extend([f"| {text}" for text in texts] if len(texts) > 1 else texts)
            made.append("")
            paragraph.clear()
        if pairs:
            made.extend(definitions(pairs))
            pairs.clear()

    example = False
    for line in lines:
        text = line.strip()
        if example and text:
            made.append(line)
            continue
        if text.startswith(">>>"):
            flush()
            made.append(line)
            example = True
            continue
        if not text:
            flush()
            if example:
                made.append("")
            example = False
        elif pairs and line.startswith("    "):
            term, definition = pairs[-1]
            further = items(text) if NEXT_ITEM.search(f"; {text}") and ITEM.match(text) else []
            pairs[-1:] = [(term, definition), *further] if further else items(f"{term} : {definition} {text}")
        elif pairs and text[:1].islower() and not ITEM.match(text):
            term, definition = pairs[-1]
            pairs[-1] = (term, f"{definition} {text}")
        elif ITEM.match(text) and not text.startswith(("-", "*")):
            if paragraph:
                flush()
            pairs.extend(items(text))
        elif text.startswith("- "):
            flush()
            made.extend([f"- {inline(text[2:])}", ""])
        elif line.startswith("    ") and not paragraph:
            flush()
            made.extend(["::", "", line, ""])
        else:
            if pairs or SENTENCE.match(text):
                flush()
            paragraph.append(text)
    flush()
    return made


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite one docstring in place; a constant has that of its type, which says nothing, so its items stand there."""
    if what == "data" and isinstance(obj, (tuple, list, dict)):
        names = ", ".join(f"``{getattr(item, '__name__', item)}``" for item in obj)
        lines[:] = [f"{len(obj)} items: {names}."]
    else:
        lines[:] = as_rst(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite every docstring that autodoc reads."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
