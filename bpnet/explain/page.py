"""The page: one HTML document with its style, its script and its drawings; it asks nothing of any network."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bpnet.explain.draw import draw
from bpnet.explain.parts import MINUS, Row, Scene, plain, prose

if TYPE_CHECKING:
    from bpnet.explain.explanation import Explanation

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def shown(number: float) -> str:
    """A number in prose: six digits, a real minus sign."""
    return plain(number).replace("-", MINUS)


def _row(row: Row) -> list[str]:
    return [row.by, shown(row.local), shown(row.upstream), shown(row.product)]


def _scene(scene: Scene) -> dict[str, Any]:
    wide, tall = draw(scene)
    return {
        "group": scene.group, "sample": scene.sample, "neuron": scene.neuron, "title": scene.title,
        "wide": wide, "tall": tall,
        "zero": [[f.label, prose(f.why)] for term in scene.terms for f in term.factors if f.why],
        "steps": [
            {"phase": s.phase, "op": s.op, "words": prose(s.words),
             "rows": [_row(row) for row in s.rows]}
            for s in scene.steps
        ],
    }  # fmt: skip


def _share(value: float | None) -> str:
    return f", {value:.0%} zeros" if value else ""


def _layers(explanation: Explanation) -> list[dict[str, Any]]:
    """For every group: what its button says, and the neuron to start with: the one with the largest gradient."""
    known = explanation.layers()
    found = []
    for number, group in enumerate(explanation._choice.groups):
        scene = next(each for each in explanation.scenes if each.group == number)
        last = known[group.calls[-1]] if group.calls else None
        facts = "" if last is None else "; ".join(
            f"|{name}| {plain(last[f'{name}_norm'], 3)}{_share(last[f'{name}_zeros'])}" for name in ("y", "dy")
        )  # fmt: skip
        first = [s for s in explanation.scenes if s.group == number and s.sample == scene.sample]
        start = max(first, key=lambda each: abs(each.gradient) if each.gradient == each.gradient else 0.0)
        found.append({"title": scene.title, "facts": facts, "start": start.neuron})
    return found


def document(explanation: Explanation) -> str:
    """The page as text."""
    source = files("bpnet.explain")
    data = {
        "layers": _layers(explanation),
        "samples": explanation._choice.samples,
        "scenes": [_scene(scene) for scene in explanation.scenes],
    }
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    first = explanation.scenes[0]
    wide, tall = draw(first)
    name, _, facts = (
        explanation.heading().removesuffix("".join(f"\n{line}" for line in explanation.notes)).partition("\n")
    )
    texts = [*explanation.notes, *explanation.disagreements]
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in texts)
    fields = {
        "POLICY": escape(POLICY), "NAME": escape(name), "FACTS": escape(facts),
        "WARNINGS": warnings,
        "STYLE": (source / "page.css").read_text("utf-8"), "SCRIPT": (source / "page.js").read_text("utf-8"),
        "FIRST": wide + tall, "DATA": embedded, "TEXT": escape(str(explanation)),
    }  # fmt: skip
    text = (source / "page.html").read_text("utf-8")
    pieces = text.split("@@")  # every second one is a field's name, so that what is put in is not looked at again
    return "".join(fields[piece] if place % 2 else piece for place, piece in enumerate(pieces))
