"""A scene as SVG, as the chapter draws a neuron: values in black above the edges, gradients in red below them.

Every element says at which steps it appears (`data-from`) and is lit (`data-lit`); the page's script does the rest.
Without a script all is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape

from bpnet.explain.parts import MINUS, Factor, Scene, plain, prose

SHORT = {"weight": "w", "bias": "b", "slope": "a"}


@dataclass(frozen=True)
class Layout:
    """Where things are: columns in user units, which are pixels where the drawing has its natural size."""

    leaf: float
    leaf_width: float
    label: float
    mul: float
    product: float
    head: float
    pitch: float  # between the nodes of the chain
    row: float
    radius: float
    upright: bool  # whether the chain runs down instead of to the right

    @property
    def digits(self) -> int:
        """How many a label has room for."""
        return 3 if self.upright else 4

    def half(self, op: str) -> float:
        """Half the width of a function's node."""
        letter = 3.7 if self.upright else 4.3
        return self.radius if len(op) <= 4 else max(self.radius, letter * len(op) + 8)


WIDE = Layout(60, 58, 150, 262, 334, 444, 146, 53, 25, False)
TALL = Layout(25, 40, 83, 142, 195, 278, 104, 52, 20, True)


def number(value: float, digits: int) -> str:
    """A number for a label, with a real minus sign."""
    text = plain(value, digits)
    if len(text.lstrip("-")) > digits + 3:  # 0.00448 is wide
        text = f"{value:.{digits - 2}e}"
    return text.replace("-", MINUS).replace("e+0", "e").replace(f"e{MINUS}0", f"e{MINUS}")


def shortened(name: str, length: int) -> str:
    """A name that may be cut."""
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


class Drawing:
    """One scene in one layout."""

    def __init__(self, scene: Scene, layout: Layout) -> None:
        self.scene = scene
        products = any(term.op for term in scene.terms)
        self.inline = layout.upright and not scene.head  # then the input stands above the chain, in its middle
        if layout.upright and not products:
            layout = replace(layout, leaf=150 if self.inline else 42, leaf_width=68, label=116, mul=152)
        self.at = layout
        self.edges: list[str] = []
        self.parts: list[str] = []
        self.losses = {f"n{k}" for k, n in enumerate(scene.nodes) if n.path == "loss" and n.op != "softmax"}
        self.place = {step.at: k for k, step in enumerate(scene.steps)}

    def ordinal(self, *names: str) -> int:
        """The number of the first of these steps that there is."""
        return next((self.place[name] for name in names if name in self.place), 0)

    def lit(self, *names: str) -> str:
        """The attribute that lists the steps that light an element."""
        numbers = sorted({self.place[name] for name in names if name in self.place})
        return f' data-lit="{" ".join(map(str, numbers))}"' if numbers else ""

    # --- elements ---

    def text(self, x: float, y: float, kind: str, content: str, more: str = "") -> None:
        """A text; more : further attributes."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}"{more}>{content}</text>')

    def edge(self, path: str, *steps: str) -> None:
        """An edge that these steps light."""
        self.edges.append(f'<path class="edge" d="{path}"{self.lit(*steps)} marker-end="url(#tip)"/>')

    def labels(
        self,
        x: float,
        y: float,
        value: float,
        gradient: float,
        value_from: int,
        gradient_from: int,
        lit_value: str,
        lit_gradient: str,
        factor: Factor | None = None,
        beside: bool = False,
    ) -> None:
        """The value above the edge at (x, y), the gradient below it; beside an upright edge, one over the other."""
        up, down, side = (-2, 17, " start") if beside else (-7, 19, "")
        self.text(x, y + up, f"value{side}", number(value, self.at.digits), f' data-from="{value_from}"{lit_value}')
        more = f' data-from="{gradient_from}"{lit_gradient}'
        kind = f"gradient{side}"
        if factor is not None and factor.why:
            name = escape(factor.label)
            more += (
                f' data-why="{escape(prose(factor.why))}" role="button" tabindex="0" aria-label="Why is d{name} zero?"'
            )
            kind += " why"
        self.text(x, y + down, kind, number(gradient, self.at.digits), more)

    def node(self, x: float, y: float, op: str, *steps: str) -> float:
        """A function; returns half its width."""
        r = self.at.radius
        name = shortened("loss" if steps[0] in self.losses else op, 18 if self.at.upright else 24)
        half = self.at.half(name)
        jump = f' data-node="{escape(op)}"{self.lit(*steps)}'
        box = f'<rect x="{x - half:g}" y="{y - r:g}" width="{2 * half:g}" height="{2 * r:g}" rx="{r:g}"/>'
        self.parts.append(f'<g class="node"{jump}>{box}<text x="{x:g}" y="{y + 5:g}">{escape(name)}</text></g>')
        return half

    def leaf(self, y: float, factor: Factor, steps: tuple[str, ...]) -> None:
        """The box of an input or a parameter."""
        at = self.at
        name, known = SHORT.get(factor.name, factor.name), factor.name in ("x", "weight", "bias", "slope")
        sub = "" if factor.name == "bias" or not factor.index else ",".join(
            map(str, factor.index[:1] if factor.name == "weight" else factor.index)
        )  # fmt: skip
        half, h = at.leaf_width / 2, 32
        label = f'{escape(name)}<tspan class="sub" dy="5">{sub}</tspan>' if sub else escape(name)
        if not known:
            label = escape(shortened(name, 9))
        kind = "name" if known or len(name) < 5 else "name small"
        box = f'<rect x="{at.leaf - half:g}" y="{y - h / 2:g}" width="{2 * half:g}" height="{h}" rx="8"/>'
        words = f'<text x="{at.leaf:g}" y="{y + 5:g}" class="{kind}">{label}</text>'
        self.parts.append(f'<g class="leaf"{self.lit(*steps)}>{box}{words}</g>')

    # --- the whole ---

    def make(self) -> str:
        """The scene as SVG."""
        scene, at = self.scene, self.at
        has_head = scene.head != ""
        head_from, back = self.ordinal("h"), self.ordinal("b")
        arrive = self.ordinal("bn0", "b")  # when the head's gradient is known
        feet: list[tuple[float, float, tuple[str, ...]]] = []  # (x, y) where an edge to the head starts, its steps
        y = 34.0
        for k, term in enumerate(scene.terms):
            steps = (f"m{k}", "m", f"bm{k}", "bm")
            own = self.ordinal(f"bm{k}", "bm", "bh", "bn0", "b")
            if term.op:
                rows = [y + at.row * i for i in range(len(term.factors))]
                middle = (rows[0] + rows[-1]) / 2
                for i, (row, factor) in enumerate(zip(rows, term.factors, strict=True)):
                    self.leaf(row, factor, steps)
                    self.labels(at.label, row, factor.value, factor.gradient, 0, own, self.lit(f"m{k}", "m"),
                                self.lit(f"bm{k}", "bm", "g"), factor)  # fmt: skip
                    shift = 0 if len(rows) == 1 else (i / (len(rows) - 1) - 0.5) * 16
                    self.edge(bent(at.leaf + at.leaf_width / 2, row, at.label + (18 if at.upright else 34),
                                   at.mul - at.radius + 2, middle + shift), *steps)  # fmt: skip
                half = self.node(at.mul, middle, term.op, *steps)
                made = self.ordinal(f"m{k}", "m")
                self.labels(at.product, middle, term.value, scene.gradient, made, self.ordinal("bh", "b"),
                            self.lit(f"m{k}", "m", "h"), self.lit("bh", f"bm{k}", "bm"))  # fmt: skip
                feet.append((at.mul + half, middle, ("h", "bh")))
                y = rows[-1] + at.row + 12
            else:
                for factor in term.factors:
                    self.leaf(y, factor, ("h", "bh"))
                    if not self.inline:
                        self.labels(at.label, y, factor.value, factor.gradient, 0, own if has_head else arrive,
                                    self.lit("h"), self.lit("bh", "g"), factor)  # fmt: skip
                    feet.append((at.leaf + at.leaf_width / 2, y, ("h", "bh")))
                    y += at.row + 6
        if scene.rest is not None:
            self.text(at.leaf - at.leaf_width / 2, y, "more", f"and {scene.rest.count} more terms:")
            feet.append((at.label + 62 if at.upright else at.label + 34, y + 18, ("h", "bh")))
            self.text(
                at.leaf - at.leaf_width / 2, y + 22, "more", f"their sum is {number(scene.rest.value, at.digits)}"
            )
            y += at.row + 10
        rows_end = y - at.row / 2 + 8
        middle = rows_end / 2 if len(feet) > 1 else feet[0][1]
        single = not any(term.op for term in scene.terms)
        head_x = (at.mul + 40 if not at.upright else at.mul + 60) if single and has_head else at.head
        if not has_head:
            middle, head_x, half = 34.0, at.leaf, at.leaf_width / 2
        else:
            half = self.node(head_x, middle, scene.head, "h", "bh")
            for k, (x, row, lit_by) in enumerate(feet):
                spread = 0.0 if len(feet) == 1 else (k / (len(feet) - 1) - 0.5) * at.radius * 1.1
                flat = (at.label if single else at.product) + (26 if at.upright else 36)
                if not at.upright and not single and x < at.mul and row > middle + 60:  # from below, under the products
                    self.edge(f"M{x:g} {row:g} H{flat:g} C{head_x - 16:g} {row:g} {head_x:g} {row - 30:g} {head_x:g} "
                              f"{middle + at.radius:g}", *lit_by)  # fmt: skip
                    continue
                self.edge(bent(x, row, max(flat, x), head_x - half + abs(spread) * 0.25, middle + spread), *lit_by)
        return self.chain(head_x, middle, half, rows_end, head_from if has_head else 0, back)

    def chain(self, x: float, y: float, half: float, rows_end: float, made: int, back: int) -> str:
        """The nodes behind the head, with the edges between them, and the whole as SVG."""
        scene, at = self.scene, self.at
        value, gradient = scene.value, scene.gradient
        if not scene.head and not self.inline:  # the input's own labels stand on its edge already
            value = gradient = 0.0
        turn = at.radius if scene.head else 16
        forward = "h"
        for k in range(len(scene.nodes) + 1):
            last = k == len(scene.nodes)
            shows = bool(scene.head) or k > 0 or self.inline
            factor = scene.terms[0].factors[0] if self.inline and k == 0 else None
            known = self.ordinal(f"bn{k}", "b") if not last else back
            lit = self.lit(forward, f"n{k}"), self.lit(f"bn{k}", f"bn{k - 1}" if k else "bh", "b" if last else "")
            edge_steps = (forward, f"n{k}", f"bn{k}", "b" if last else "")
            length = at.pitch if not last else at.pitch * 0.72
            if at.upright:
                target = y + length - (at.radius if not last else 0)
                self.edge(f"M{x:g} {y + turn:g} V{target:g}", *edge_steps)
                if shows:
                    self.labels(x + 7, (y + turn + target) / 2, value, gradient, made, known, *lit, factor, beside=True)
                y += length
            else:
                op_half = (
                    0.0 if last else at.half("loss" if f"n{k}" in self.losses else shortened(scene.nodes[k].op, 24))
                )
                start, target = x + half, x + half + (at.pitch - 50 if shows else at.label + 40 - x)
                self.edge(f"M{start:g} {y:g} H{target:g}", *edge_steps)
                if shows:
                    self.labels((start + target) / 2 - 3, y, value, gradient, made, known, *lit)
                x = target + op_half
            if last:
                break
            node = scene.nodes[k]
            half = self.node(x, y, node.op, f"n{k}", f"bn{k}")
            turn = at.radius
            value, gradient, made = node.value, node.gradient, self.ordinal(f"n{k}")
            forward = f"n{k}"
        end = "L" if scene.nodes and scene.nodes[-1].path == "loss" else "y"
        if at.upright:
            self.text(x, y + 18, "name", end)
            width, height = 360.0, max(rows_end, y + 32)
        else:
            self.text(x + 16, y + 6, "name", end)
            width, height = x + 40, max(rows_end, y + 46)
        title = f"{scene.title}, neuron {scene.neuron}, sample {scene.sample}"
        kind = "tall" if at.upright else "wide"
        body = "".join(self.edges + self.parts)
        return (
            f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 1.15:g}px" role="group" '
            f'aria-label="{escape(title)}">{body}</svg>'
        )


def bent(x0: float, y0: float, flat: float, x1: float, y1: float) -> str:
    """An edge that runs level from (x0, y0) to x = flat, then bends to (x1, y1), where it arrives level."""
    if y0 == y1:
        return f"M{x0:g} {y0:g} H{x1:g}"
    half = (flat + x1) / 2
    return f"M{x0:g} {y0:g} H{flat:g} C{half:g} {y0:g} {half:g} {y1:g} {x1 - 2:g} {y1:g} H{x1:g}"


def draw(scene: Scene) -> tuple[str, str]:
    """The scene for wide screens, and for narrow ones."""
    return Drawing(scene, WIDE).make(), Drawing(scene, TALL).make()
