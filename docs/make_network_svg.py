"""Draw docs/network.svg: one neuron as atomic functions, with every value and every gradient computed by bpnet.

`python docs/make_network_svg.py` writes the file; a test holds the file to what `draw` returns.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from bpnet import ops

TARGET = Path(__file__).with_name("network.svg")

X, W, B = [1.0, -2.0, 3.0], [-3.0, -1.0, 2.0], 1.0

WIDTH, HEIGHT = 800, 560
ROWS = ((64, 130), (208, 274), (352, 418))  # the y of every input and its weight
BIAS_ROW = 500
MUL_X, SUM_X, RELU_X = 312, 512, 648
MIDDLE = 241  # the y of sum and ReLU
INPUT_X, INPUT_END = 62, 206
RADIUS = 28

STYLE = """\
  text { font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1f2328; }
  .value, .gradient { font-size: 18px; font-weight: 600; text-anchor: middle; }
  .gradient { fill: #c0182b; }
  .name { font-size: 20px; font-style: italic; text-anchor: middle; }
  .op { font-size: 17px; text-anchor: middle; }
  .note { font-size: 14px; }
  .red { fill: #c0182b; }
  .sub { font-size: 13px; font-style: normal; }
  .edge { fill: none; stroke: #6e7781; stroke-width: 1.6; }
  .node { fill: #ffffff; stroke: #1f2328; stroke-width: 1.8; }
  .leaf { fill: #eef2f6; stroke: #6e7781; stroke-width: 1.2; }
"""


def neuron() -> dict[str, list[float]]:
    """The values of y = ReLU(x0 w0 + x1 w1 + x2 w2 + b), and for every name N the gradient d y / d N as dN."""
    x, w, b = (np.asarray(each) for each in (X, W, [B]))
    products = [ops.mul(x[i : i + 1], w[i : i + 1]) for i in range(3)]
    z = ops.sum_terms((*products, b))
    y = ops.relu(z)

    dy = np.ones(1)
    dz = ops.relu_backward(dy, y)
    *dproducts, db = ops.sum_backward(dz, 4)
    pairs = [ops.mul_backward(dproducts[i], x[i : i + 1], w[i : i + 1]) for i in range(3)]
    arrays = {
        **{"x": x, "w": w, "b": b, "xw": np.concatenate(products), "z": z, "y": y},
        **{"dy": dy, "dz": dz, "dxw": np.concatenate(dproducts), "db": db},
        **{"dx": np.concatenate([dx for dx, _ in pairs]), "dw": np.concatenate([dw for _, dw in pairs])},
    }
    return {name: array.tolist() for name, array in arrays.items()}


def plain(number: float) -> str:
    """A number in as few characters as it needs: -3.0 as "-3"."""
    return f"{number:g}"


def listed(numbers: list[float]) -> str:
    """Numbers as a Python list: "[-3, -1, 2]"."""
    return f"[{', '.join(map(plain, numbers))}]"


def title() -> str:
    """The drawing's title."""
    return "The derivatives of one neuron"


def description(n: dict[str, list[float]]) -> str:
    """The drawing in words, for whoever cannot see it."""
    return (
        f"A neuron with the inputs x = {listed(n['x'])}, the weights w = {listed(n['w'])} and the bias b = "
        f"{plain(n['b'][0])}, drawn as a graph of atomic functions. Forward, from left to right: three products "
        f"x w = {listed(n['xw'])}, their sum with the bias z = {plain(n['z'][0])}, and y = ReLU(z) = "
        f"{plain(n['y'][0])}. Backward, from right to left: dy = {plain(n['dy'][0])}, dz = {plain(n['dz'][0])}, the "
        f"sum passes it to every product and to the bias, and each product multiplies it by its other factor: "
        f"dx = {listed(n['dx'])}, dw = {listed(n['dw'])}, db = {plain(n['db'][0])}."
    )


def text(x: float, y: float, kind: str, content: str) -> str:
    """One text element."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{content}</text>'


def labels(x: float, y: float, value: float, gradient: float) -> list[str]:
    """The value above the edge at (x, y) and the gradient below it."""
    shown = [plain(each).replace("-", "\N{MINUS SIGN}") for each in (value, gradient)]
    return [text(x, y - 8, "value", shown[0]), text(x, y + 22, "gradient", shown[1])]


def leaf(y: float, name: str, index: int | None) -> list[str]:
    """The box of an input, a weight or the bias."""
    sub = "" if index is None else f'<tspan class="sub" dy="5">{index}</tspan>'
    box = f'<rect x="{INPUT_X - 28}" y="{y - 19}" width="56" height="38" rx="8" class="leaf"/>'
    return [box, text(INPUT_X, y + 6, "name", name + sub)]


def node(x: float, y: float, name: str) -> list[str]:
    """The circle of an atomic function."""
    return [f'<circle cx="{x}" cy="{y:g}" r="{RADIUS}" class="node"/>', text(x, y + 6, "op", name)]


def arrow(path: str) -> str:
    """An edge along `path`."""
    return f'<path class="edge" d="{path}" marker-end="url(#arrow)"/>'


def bent(x0: float, y0: float, flat: float, x1: float, y1: float) -> str:
    """An edge that runs level from (x0, y0) to x = flat, then bends to (x1, y1), where it arrives level."""
    end = x1 - 8
    half = (flat + end) / 2
    return arrow(f"M{x0:g} {y0:g} H{flat:g} C{half:g} {y0:g} {half:g} {y1:g} {end:g} {y1:g} H{x1:g}")


def notes() -> list[str]:
    """How to read the drawing, and the rule of each function."""
    lines = [
        (470, 58, "note", "forward: the value, above its edge"),
        (470, 82, "note red", "backward: d y / d value, below it"),
        (548, 404, "note", "mul: dx = dy w, dw = dy x"),
        (548, 428, "note", "sum: dy to every term"),
        (548, 452, "note", "ReLU: dy where y &gt; 0, else 0"),
    ]
    return [text(*line) for line in lines]


def draw() -> str:
    """The drawing as the text of an SVG file."""
    n = neuron()
    edges: list[str] = []
    parts: list[str] = []
    start, label_x = INPUT_X + 28, (INPUT_X + 28 + INPUT_END) / 2
    for i, (x_row, w_row) in enumerate(ROWS):
        mul_y = (x_row + w_row) / 2
        for name, row, arrive in (("x", x_row, mul_y - 9), ("w", w_row, mul_y + 9)):
            edges.append(bent(start, row, INPUT_END, MUL_X - 26, arrive))
            parts += leaf(row, name, i) + labels(label_x, row, n[name][i], n[f"d{name}"][i])
        parts += node(MUL_X, mul_y, "mul") + labels(373, mul_y, n["xw"][i], n["dxw"][i])
        edges.append(bent(MUL_X + RADIUS, mul_y, 404, SUM_X - (28 if i == 1 else 25), MIDDLE + 12 * (i - 1)))
    edges.append(arrow(f"M{start} {BIAS_ROW} H400 C470 {BIAS_ROW} {SUM_X} 420 {SUM_X} {MIDDLE + RADIUS}"))
    parts += leaf(BIAS_ROW, "b", None) + labels(label_x, BIAS_ROW, n["b"][0], n["db"][0])

    edges.append(arrow(f"M{SUM_X + RADIUS} {MIDDLE} H{RELU_X - RADIUS}"))
    edges.append(arrow(f"M{RELU_X + RADIUS} {MIDDLE} H742"))
    parts += node(SUM_X, MIDDLE, "sum") + labels(578, MIDDLE, n["z"][0], n["dz"][0])
    parts += node(RELU_X, MIDDLE, "ReLU") + labels(706, MIDDLE, n["y"][0], n["dy"][0])
    parts.append(text(760, MIDDLE + 6, "name", "y"))
    parts += notes()

    body = "\n".join(edges + parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" \
role="img" aria-labelledby="title description">
<title id="title">{escape(title())}</title>
<desc id="description">{escape(description(n))}</desc>
<style>
{STYLE}</style>
<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#6e7781"/></marker></defs>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#ffffff" stroke="#d0d7de"/>
{body}
</svg>
"""


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
